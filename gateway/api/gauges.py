"""What /metrics measures at the moment it is asked: backlogs in the database, and queues at the broker.

A part that does not answer in time is left out, and its `…_up` gauge says so.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from loguru import logger
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from gateway import db
from gateway.api import broker
from gateway.api.probes import Probe, ProbeTimeout
from gateway.domain import backlog
from gateway.domain.backlog import Backlog

DATABASE_SECONDS = 2
"""The longest that the counting may take."""


def _read_backlog() -> Backlog:
    with db.begin() as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = '{DATABASE_SECONDS}s'"))
        return backlog.read(connection)


_backlog = Probe(_read_backlog)


def _age(since: datetime | None) -> float:
    return max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0.0


def _gauge(name: str, help_text: str, *values: tuple[str, float], label: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for labelled, value in values:
        family.add_metric([labelled], value)
    return family


class Momentary(Collector):
    """The gauges."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Measure now."""
        yield from _of_database()
        if broker.is_configured():
            yield from _of_broker()


def _of_database() -> Iterator[GaugeMetricFamily]:
    try:
        found = _backlog.answer(DATABASE_SECONDS)
    except (ProbeTimeout, SQLAlchemyError) as exc:
        logger.warning("The backlog cannot be counted: {}", type(exc).__name__)
        yield GaugeMetricFamily("database_up", "Whether the database answered", 0)
        return
    yield GaugeMetricFamily("database_up", "Whether the database answered", 1)
    yield GaugeMetricFamily("outbox_depth", "Outbox rows that wait to be published", found.outbox.count)
    yield GaugeMetricFamily("outbox_oldest_seconds", "Age of the oldest outbox row", _age(found.outbox.since))
    yield GaugeMetricFamily("dead_letters_open", "Dead letters that wait for an operator", found.dead_letters_open)
    unfinished = found.unfinished.items()
    counts = [(status, waiting.count) for status, waiting in unfinished]
    ages = [(status, _age(waiting.since)) for status, waiting in unfinished]
    yield _gauge("transactions_unfinished", "Transactions without an outcome", *counts, label="status")
    yield _gauge("transactions_oldest_unfinished_seconds", "Age of the oldest of them", *ages, label="status")


def _of_broker() -> Iterator[GaugeMetricFamily]:
    queues = broker.queues()
    yield GaugeMetricFamily("broker_management_up", "Whether the management API answered", int(queues is not None))
    if queues is not None:
        depths = [(queue.name, queue.messages) for queue in queues]
        consumers = [(queue.name, queue.consumers) for queue in queues]
        yield _gauge("queue_depth", "Messages in the queue", *depths, label="queue")
        yield _gauge("queue_consumers", "Consumers of the queue", *consumers, label="queue")
