"""Logs, correlation ids and metrics.

Every log line carries the service and, where there is one, the request, task and transaction id. Metrics are
Prometheus counters and histograms; with `PROMETHEUS_MULTIPROC_DIR` set, `metrics_text` adds up all processes
of this host (https://prometheus.github.io/client_python/multiprocess/), and with `METRICS_DIR` all its containers.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.config import old_names_in_use, settings
from gateway.security.redaction import redact

if TYPE_CHECKING:
    from loguru import Record

HTTP_REQUESTS = Counter("http_requests_total", "HTTP requests", ["method", "route", "status"])
HTTP_SECONDS = Histogram("http_request_seconds", "Duration of HTTP requests", ["method", "route"])
LOGIN_FAILURES = Counter(
    "login_failures_total",
    "Refused log-ins by reason (invalid_credentials, account_limited, address_limited, busy)",
    ["reason"],
)
TRANSACTIONS_CREATED = Counter("transactions_created_total", "Accepted transactions", ["currency"])
SETTLEMENTS = Counter("settlements_total", "Settlements by result (succeeded, failed)", ["result"])
REFUNDS = Counter("refunds_total", "Refunds by result (succeeded, failed)", ["result"])
RETRIES = Counter("task_retries_total", "Retries, counted per transaction", ["task"])
DEAD_LETTERS = Counter("dead_letters_total", "Stored dead letters", ["queue", "reason"])
REQUEUED = Counter("transactions_requeued_total", "Payments and refunds that were requeued", ["by"])
PUBLISHED = Counter("outbox_published_total", "Published outbox rows", ["topic"])
ALERTS = Counter("alerts_total", "Alerts by delivery result (delivered, failed, logged)", ["severity", "result"])
PROCESSING_SECONDS = Histogram(
    "transaction_processing_seconds",
    "Time from the acceptance of a transaction to its completion",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
)
PROVIDER_SECONDS = Histogram("provider_call_seconds", "Duration of provider calls", ["provider", "outcome"])
WEBHOOK_DELIVERIES = Counter(
    "webhook_deliveries_total",
    "Attempts at deliveries by outcome (succeeded, failed, exhausted, canceled)",
    ["outcome"],
)
WEBHOOK_SECONDS = Histogram(
    "webhook_call_seconds",
    "Duration of calls of merchants' receivers",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)


_OF_GRANIAN = ("_granian", "granian.access")
"""Loggers of the server, which have their own handlers. An access log contains raw paths."""
CONTEXT_FIELDS = ("request_id", "task_id", "transaction_id", "refund_id")


class _StandardLogging(logging.Handler):
    """Writes the records of the libraries' standard loggers like loguru, or passes them to it."""

    def emit(self, record: logging.LogRecord) -> None:
        if _lines_are_json() and not record.exc_info:
            now = datetime.now(UTC)
            _write_json(now, record.levelname, record.name, record.getMessage(), ids=_context.get())
            return
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        named = logger.patch(lambda entry: entry.__setitem__("name", record.name))
        named.opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def _console_format(record: "Record") -> str:
    context = "".join(f" {name}={{extra[{name}]}}" for name in record["extra"])
    return f"<green>{{time:HH:mm:ss.SSS}}</> <level>{{level: <8}}</> {{message}}<dim>{context}</>\n{{exception}}"


def _write_json(
    at: datetime, level: str, name: str | None, message: str, *, ids: Mapping[str, str], exception: str | None = None
) -> None:
    entry = {
        "timestamp": at.isoformat(),
        "level": level,
        "message": redact(message),
        "logger": name,
        "service": settings().log_service_name,
    }
    for field, value in ids.items():
        entry[field] = redact(value)
    if exception is not None:
        entry["exception"] = redact(exception)
    sys.stderr.write(json.dumps(entry) + "\n")


def _json_sink(message: object) -> None:
    record: Record = message.record  # type: ignore[attr-defined]  # loguru hands its sinks a str subclass
    exception = None if record["exception"] is None else str(message).partition("\n")[2].strip()
    at, level, name = record["time"].astimezone(UTC), record["level"].name, record["name"]
    _write_json(at, level, name, record["message"], ids=record["extra"], exception=exception)


def _console_sink(message: object) -> None:
    sys.stderr.write(redact(str(message)))


@cache
def _lines_are_json() -> bool:
    chosen = settings().log_format
    return chosen == "json" or (chosen == "auto" and not sys.stderr.isatty())


@cache
def _info_is_shown() -> bool:
    return logger.level("INFO").no >= logger.level(settings().log_level).no


def configure_logging() -> None:
    """Send this process's log lines, its libraries' too, to standard error: redacted, in the configured format."""
    config = settings()
    _lines_are_json.cache_clear()
    _info_is_shown.cache_clear()
    logger.remove()
    logger.configure(patcher=lambda record: record["extra"].update(_context.get()))
    if _lines_are_json():
        logger.add(_json_sink, level=config.log_level, format="{message}", backtrace=False, diagnose=False)
    else:
        logger.add(
            _console_sink,
            level=config.log_level,
            format=_console_format,
            colorize=sys.stderr.isatty(),
            backtrace=False,
            diagnose=False,
        )
    ours = _StandardLogging(config.log_level)  # a library's logger may have a lower level than the root
    logging.basicConfig(handlers=[ours], level=config.log_level, force=True)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    for name in _OF_GRANIAN:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for warning in old_names_in_use():
        logger.warning("{}", warning)


_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default={})  # noqa: B039  # nobody changes it


@contextmanager
def log_context(**fields: str | None) -> Iterator[None]:
    """Add the given ids (see `CONTEXT_FIELDS`) to every line logged within the block."""
    token = _context.set({**_context.get(), **{name: value for name, value in fields.items() if value}})
    try:
        yield
    finally:
        _context.reset(token)


def log_frequent(name: str, message: str) -> None:
    """Log a line at INFO for the module `name`: for lines of every request and payment.

    With the format json it writes the line itself, at a fifth of the cost: loguru also looks up the calling function,
    the process and the thread, which a JSON line does not contain.
    """
    if not _lines_are_json():
        logger.opt(depth=1).info("{}", message)
    elif _info_is_shown():
        _write_json(datetime.now(UTC), "INFO", name, message, ids=_context.get())


class _Containers(Collector):
    """The metrics of all containers of this host; each has a subfolder of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return the sums of all files."""
        files = [str(file) for file in self._folder.glob("*/*.db")]
        return MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call, no-any-return]


def metrics_text(*collectors: Collector) -> bytes:
    """Return the metrics of all processes of this host, and of `collectors`, in Prometheus' text format."""
    config = settings()
    shared = CollectorRegistry()
    if config.metrics_dir is not None:
        shared.register(_Containers(config.metrics_dir))
    elif config.prometheus_multiproc_dir is not None:
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
    else:
        shared = REGISTRY
    current = CollectorRegistry()
    for collector in collectors:
        current.register(collector)
    return generate_latest(shared) + generate_latest(current)
