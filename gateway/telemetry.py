"""Logs, correlation ids and metrics.

Every log line carries the service and, where there is one, the request, task and transaction id. Metrics are
Prometheus counters and histograms; with `PROMETHEUS_MULTIPROC_DIR` set, `metrics_text` adds up all processes
of this host (https://prometheus.github.io/client_python/multiprocess/).
"""

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from loguru import logger
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client import values as metric_values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.config import old_names_in_use, settings
from gateway.security.redaction import redact

if TYPE_CHECKING:
    from loguru import Record

MetricT = TypeVar("MetricT", Counter, Histogram)

_HOST = socket.gethostname()


@cache
def _own_name() -> str:
    """This process among all that share the folder of metrics; containers that share it share process ids too.

    It is asked for with every value that changes, and the process id costs a system call.
    """
    return f"{_HOST}-{os.getpid()}"


os.register_at_fork(after_in_child=_own_name.cache_clear)

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    metric_values.ValueClass = metric_values.MultiProcessValue(_own_name)  # type: ignore[no-untyped-call]

HTTP_REQUESTS = Counter("http_requests_total", "Requests answered", ["method", "route", "status"])
HTTP_SECONDS = Histogram("http_request_seconds", "Time to answer a request", ["method", "route"])
LOGIN_FAILURES = Counter(
    "login_failures_total",
    "Log-ins refused by reason (invalid_credentials, account_limited, address_limited, busy)",
    ["reason"],
)
TRANSACTIONS_CREATED = Counter("transactions_created_total", "Transactions accepted", ["currency"])
SETTLEMENTS = Counter("settlements_total", "Settlements by result (succeeded, failed)", ["result"])
REFUNDS = Counter("refunds_total", "Refunds by result (succeeded, failed)", ["result"])
RETRIES = Counter("task_retries_total", "Retries, counted per transaction", ["task"])
DEAD_LETTERS = Counter("dead_letters_total", "Dead letters stored", ["queue", "reason"])
REQUEUED = Counter("transactions_requeued_total", "Transactions enqueued again after standing still", ["by"])
PUBLISHED = Counter("outbox_published_total", "Outbox rows published", ["topic"])
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


@cache
def labelled(metric: MetricT, *values: str) -> MetricT:
    """`metric` with these labels. Its own `labels` takes a lock and looks at every value, each time."""
    return metric.labels(*values)


_OF_GRANIAN = ("_granian", "granian.access")
"""The server's loggers, which write by themselves; an access log holds raw paths."""
CONTEXT_FIELDS = ("request_id", "task_id", "transaction_id", "refund_id")


class _StandardLogging(logging.Handler):
    """Writes the records of the libraries' standard loggers as loguru would, or hands them to it."""

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
    """Log a line at INFO for the module `name`, as loguru would, at a fifth of its cost: for each request and payment.

    What loguru collects for a line, and these lines do not show, takes longer than to write them.
    """
    if not _lines_are_json():
        logger.opt(depth=1).info("{}", message)
    elif _info_is_shown():
        _write_json(datetime.now(UTC), "INFO", name, message, ids=_context.get())


def metrics_text(*collectors: Collector) -> bytes:
    """The metrics of all processes of this host, and of `collectors`, in Prometheus' text format."""
    if settings().prometheus_multiproc_dir is None:
        own = generate_latest(REGISTRY)
    else:
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        own = generate_latest(shared)
    momentary = CollectorRegistry()
    for collector in collectors:
        momentary.register(collector)
    return own + generate_latest(momentary)
