"""The gauges of /metrics: they measure the database and the broker at each scrape.

The gauges of a source that is unavailable are omitted, and its `…_up` gauge is 0.
"""

from collections.abc import Iterator
from datetime import datetime

from loguru import logger
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from gateway import db
from gateway.api.service import rabbitmq_management
from gateway.api.service.probes import Probe, ProbeTimeout
from gateway.clock import database_clock
from gateway.domain.invariants import checks as invariant_checks
from gateway.domain.invariants.checks import Latest
from gateway.domain.operations import backlog, queue_states
from gateway.domain.operations.backlog import Backlog
from gateway.domain.operations.queue_states import State
from gateway.ids import utc_now
from gateway.reasons import reason_of

DATABASE_SECONDS = 2
"""Maximum time of a measurement of the database."""


_LIMIT = text(f"SET LOCAL statement_timeout = '{DATABASE_SECONDS}s'")


def _read_backlog() -> Backlog:
    with db.begin() as connection:
        connection.execute(_LIMIT)
        return backlog.read(connection)


def _read_invariants() -> list[Latest]:
    with db.begin() as connection:
        connection.execute(_LIMIT)
        return invariant_checks.latest(connection)


def _read_queue_states() -> list[State]:
    with db.begin() as connection:
        connection.execute(_LIMIT)
        return queue_states.states(connection)


_queue_states = Probe(_read_queue_states)
_backlog = Probe(_read_backlog)
_invariants = Probe(_read_invariants)


def _age(since: datetime | None) -> float:
    return max(0.0, (utc_now() - since).total_seconds()) if since else 0.0


def _gauge(name: str, help_text: str, *values: tuple[str, float], label: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for label_value, value in values:
        family.add_metric([label_value], value)
    return family


class StateCollector(Collector):
    """Collects the gauges."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Measure, and yield the gauges."""
        yield from _of_database()
        yield from _of_clock()
        yield from _of_queues()
        yield from _of_invariants()
        if rabbitmq_management.is_configured():
            yield from _of_broker()


def _of_database() -> Iterator[GaugeMetricFamily]:
    try:
        found = _backlog.result(DATABASE_SECONDS)
    except (ProbeTimeout, SQLAlchemyError) as exc:
        logger.warning("The backlog cannot be measured: {}", reason_of(exc))
        yield GaugeMetricFamily("database_up", "Whether the database is available", 0)
        return
    yield GaugeMetricFamily("database_up", "Whether the database is available", 1)
    yield GaugeMetricFamily("outbox_depth", "Outbox rows that are not published yet", found.outbox.count)
    yield GaugeMetricFamily("outbox_oldest_seconds", "Age of the oldest outbox row", _age(found.outbox.since))
    yield GaugeMetricFamily("dead_letters_open", "Open dead letters", found.dead_letters_open)
    unfinished = found.unfinished.items()
    counts = [(status, group.count) for status, group in unfinished]
    ages = [(status, _age(group.since)) for status, group in unfinished]
    yield _gauge("transactions_unfinished", "Transactions without an outcome", *counts, label="status")
    yield _gauge(
        "transactions_oldest_unfinished_seconds",
        "Age of the oldest transaction without an outcome",
        *ages,
        label="status",
    )
    refunds = found.refunds_pending
    yield GaugeMetricFamily("refunds_pending", "Refunds without an outcome", refunds.count)
    yield GaugeMetricFamily(
        "refunds_oldest_pending_seconds", "Age of the oldest refund without an outcome", _age(refunds.since)
    )


def _of_queues() -> Iterator[GaugeMetricFamily]:
    """Yield the state of the queues as relay and workers observe it. Without a relay the state is unknown, not 0."""
    try:
        found = _queue_states.result(DATABASE_SECONDS)
    except (ProbeTimeout, SQLAlchemyError) as exc:
        logger.warning("The state of the queues cannot be read: {}", type(exc).__name__)
        return
    if found:
        publishable = [(state.name, int(state.accepts_messages)) for state in found]
        consumed = [(state.name, int(state.delivers_messages)) for state in found]
        yield _gauge("queue_accepts_messages", "Whether the queue accepts messages", *publishable, label="queue")
        yield _gauge(
            "queue_delivers_messages", "Whether the messages of the queue are consumed", *consumed, label="queue"
        )


def _of_clock() -> Iterator[GaugeMetricFamily]:
    """Yield the offset of this host's clock, once the database's time was measured."""
    offset = database_clock.offset_seconds()
    if offset is not None:
        yield GaugeMetricFamily("clock_offset_seconds", "This host's clock minus the database's clock", offset)


def _of_invariants() -> Iterator[GaugeMetricFamily]:
    """Yield the result of the last check of the invariants, on any host; nothing before the first one."""
    try:
        found = _invariants.result(DATABASE_SECONDS)
    except (ProbeTimeout, SQLAlchemyError) as exc:
        logger.warning("The last check of the invariants cannot be read: {}", reason_of(exc))
        return
    if not found:
        return
    counts = [(latest.invariant.name, latest.violations) for latest in found]
    yield _gauge(
        "invariant_violations", "Rows that violate an invariant, at the last check", *counts, label="invariant"
    )
    for name, help_text in (
        (
            "payments_unaccounted",
            "Transactions that are neither final, nor scheduled, nor in exactly one open dead letter",
        ),
        ("ledger_imbalance", "Currencies, postings and settlements that are not balanced"),
    ):
        total = sum(latest.violations for latest in found if latest.invariant.metric == name)
        yield GaugeMetricFamily(name, help_text, total)
    oldest = min(latest.checked_at for latest in found)
    yield GaugeMetricFamily("invariants_age_seconds", "Time since the last check of the invariants", _age(oldest))


def _of_broker() -> Iterator[GaugeMetricFamily]:
    queues = rabbitmq_management.queues()
    yield GaugeMetricFamily("broker_management_up", "Whether the management API is available", int(queues is not None))
    if queues is not None:
        depths = [(queue.name, queue.messages) for queue in queues]
        consumers = [(queue.name, queue.consumers) for queue in queues]
        yield _gauge("queue_depth", "Messages in the queue", *depths, label="queue")
        yield _gauge("queue_consumers", "Consumers of the queue", *consumers, label="queue")
