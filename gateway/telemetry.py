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
from contextlib import AbstractContextManager
from datetime import UTC
from functools import cache
from typing import TYPE_CHECKING

from loguru import logger
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client import values as metric_values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.config import settings
from gateway.redaction import redact

if TYPE_CHECKING:
    from loguru import Record

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
TRANSACTIONS_CREATED = Counter("transactions_created_total", "Transactions accepted", ["currency"])
SETTLEMENTS = Counter("settlements_total", "Settlements by result (succeeded, failed)", ["result"])
REFUNDS = Counter("refunds_total", "Refunds by result (succeeded, failed)", ["result"])
RETRIES = Counter("task_retries_total", "Retries, counted per transaction", ["task"])
DEAD_LETTERS = Counter("dead_letters_total", "Dead letters stored", ["queue", "reason"])
RESCUED = Counter("transactions_rescued_total", "Transactions enqueued again after standing still", ["by"])
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

_OF_GRANIAN = ("_granian", "granian.access")
"""The server's loggers, which write by themselves; an access log holds raw paths."""
CONTEXT_FIELDS = ("request_id", "task_id", "transaction_id", "refund_id")


class _StandardLogging(logging.Handler):
    """Hands the records of the libraries' standard loggers to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        named = logger.patch(lambda entry: entry.__setitem__("name", record.name))
        named.opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def _console_format(record: "Record") -> str:
    context = "".join(f" {name}={{extra[{name}]}}" for name in record["extra"] if name != "service")
    return f"<green>{{time:HH:mm:ss.SSS}}</> <level>{{level: <8}}</> {{message}}<dim>{context}</>\n{{exception}}"


def _json_sink(message: object) -> None:
    record: Record = message.record  # type: ignore[attr-defined]  # loguru hands its sinks a str subclass
    entry = {
        "timestamp": record["time"].astimezone(UTC).isoformat(),
        "level": record["level"].name,
        "message": redact(record["message"]),
        "logger": record["name"],
        **{name: redact(str(value)) for name, value in record["extra"].items()},
    }
    if record["exception"] is not None:
        entry["exception"] = redact(str(message).partition("\n")[2].strip())
    sys.stderr.write(json.dumps(entry) + "\n")


def _console_sink(message: object) -> None:
    sys.stderr.write(redact(str(message)))


def configure_logging() -> None:
    """Send this process's log lines, its libraries' too, to standard error: redacted, in the configured format."""
    config = settings()
    as_json = config.log_format == "json" or (config.log_format == "auto" and not sys.stderr.isatty())
    logger.remove()
    logger.configure(extra={"service": config.log_service_name})
    if as_json:
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
    logging.basicConfig(handlers=[_StandardLogging()], level=config.log_level, force=True)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    for name in _OF_GRANIAN:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def log_context(**fields: str | None) -> AbstractContextManager[None]:
    """Add the given ids (see `CONTEXT_FIELDS`) to every line logged within."""
    return logger.contextualize(**{name: value for name, value in fields.items() if value})


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
