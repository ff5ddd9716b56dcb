"""The state of the work queues, derived from what the relay could publish and the workers consumed.

The broker's own report is not used: a queue may accept or deliver no messages although the broker answers and its
management API reports the queue as running.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, text

from gateway.config import settings
from gateway.domain.shared import alerts

FAILING_ALERT_SECONDS = 30
"""A queue that accepts no messages for this time raises an alert. Leader elections and restarts take less."""
STALLED_MARGIN_SECONDS = 30
STALE_SECONDS = 90
"""Observations of the relay expire after this time, which is much longer than the interval between them."""
ALERT_PAUSE_SECONDS = 600


class BrokerState(StrEnum):
    """The summary of all queues."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


def stalled_after_seconds() -> int:
    """Return the time after which a queue whose messages are not consumed counts as stalled.

    It is longer than all workers of a queue can be busy, which is the time for which a provider may hang.
    """
    return settings().claim_lease_seconds + STALLED_MARGIN_SECONDS


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation of a queue: why it accepts no messages (None if it does), and its number of consumers."""

    name: str
    reason: str | None
    consumers: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The current state of a queue, by the database's clock."""

    name: str
    reason: str | None
    consumers: int | None
    failing_seconds: float | None
    """How long the queue has accepted no messages; None if it accepts them."""
    waiting_seconds: float | None
    """How long a message has waited in the queue without being consumed; None if none waits."""
    age_seconds: float

    @property
    def accepts_messages(self) -> bool:
        """Return whether messages can be published to it."""
        return self.failing_seconds is None

    @property
    def delivers_messages(self) -> bool:
        """Return whether its messages are consumed."""
        return self.waiting_seconds is None or self.waiting_seconds <= stalled_after_seconds()

    def problem(self) -> str | None:
        """Return the problem of the queue, if it has one."""
        if self.failing_seconds is not None:
            return f"{self.name} has accepted no messages for {self.failing_seconds:.0f} s: {self.reason}"
        if not self.delivers_messages:
            consumers = "an unknown number of" if self.consumers is None else self.consumers
            return (
                f"no message of {self.name} was consumed for {self.waiting_seconds:.0f} s; it has {consumers} consumers"
            )
        return None


_OBSERVE = text("""
    INSERT INTO queue_states AS q (name, checked_at, failing_since, reason, consumers, waiting_since)
    SELECT name, now(), CASE WHEN reason IS NOT NULL THEN now() END, reason, consumers,
           CASE WHEN reason IS NULL THEN now() END
    FROM unnest(CAST(:names AS text[]), CAST(:reasons AS text[]), CAST(:consumers AS bigint[]))
         AS o (name, reason, consumers)
    ORDER BY name
    ON CONFLICT (name) DO UPDATE SET
        checked_at = excluded.checked_at,
        reason = excluded.reason,
        failing_since = CASE WHEN excluded.reason IS NOT NULL THEN coalesce(q.failing_since, now()) END,
        consumers = coalesce(excluded.consumers, q.consumers),
        waiting_since = CASE WHEN excluded.reason IS NULL
                             THEN coalesce(CASE WHEN q.waiting_since > coalesce(q.taken_at, '-infinity')
                                                THEN q.waiting_since END, now()) END
""")


def observe(connection: Connection, observations: Sequence[Observation]) -> None:
    """Store observations. If a queue accepted a message, `waiting_since` is now unless an earlier message waits."""
    values = {
        "names": [found.name for found in observations],
        "reasons": [found.reason for found in observations],
        "consumers": [found.consumers for found in observations],
    }
    connection.execute(_OBSERVE, values)


_TAKEN = text("""
    INSERT INTO queue_states (name, taken_at) VALUES (:name, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET taken_at = excluded.taken_at
""")


def note_taken(connection: Connection, name: str) -> None:
    """Record that a worker consumed a message of this queue."""
    connection.execute(_TAKEN, {"name": name})


_STATES = text("""
    SELECT name, reason, consumers, extract(epoch FROM now() - failing_since)::float8 AS failing_seconds,
           CASE WHEN waiting_since > coalesce(taken_at, '-infinity')
                THEN extract(epoch FROM now() - waiting_since)::float8 END AS waiting_seconds,
           extract(epoch FROM now() - checked_at)::float8 AS age_seconds
    FROM queue_states WHERE checked_at > now() - make_interval(secs => :stale_seconds) ORDER BY name
""")


def states(connection: Connection) -> list[State]:
    """Return the state of each queue that the relay observed recently; empty if no relay runs."""
    return [State(*row) for row in connection.execute(_STATES, {"stale_seconds": STALE_SECONDS})]


def summary(found: Sequence[State]) -> tuple[BrokerState, str | None]:
    """Return the state of the broker, and its problem, if any."""
    problems = [problem for state in found if (problem := state.problem())]
    if not found:
        return BrokerState.UNKNOWN, "No relay has checked the queues recently."
    if not problems:
        return BrokerState.UP, None
    down = all(not state.accepts_messages for state in found)
    return BrokerState.DOWN if down else BrokerState.DEGRADED, "; ".join(problems)


def publishing_problem(connection: Connection) -> str | None:
    """Return why messages cannot be published, if the relay knows a reason."""
    failing = [state.problem() for state in states(connection) if not state.accepts_messages]
    return "; ".join(problem for problem in failing if problem) or None


def raise_alerts(connection: Connection) -> bool:
    """Raise the alerts that are due, per queue and kind of problem, or one for all queues; return whether one was."""
    found = states(connection)
    failing = [state for state in found if (state.failing_seconds or 0) >= FAILING_ALERT_SECONDS]
    stalled = [state for state in found if state.accepts_messages and not state.delivers_messages]
    raised = [
        _raise(connection, "queue_accepts_nothing", _ACCEPTS_NOTHING, group, everything=len(failing) == len(found))
        for group in _groups(failing, len(found))
    ]
    raised += [
        _raise(connection, "queue_delivers_nothing", _DELIVERS_NOTHING, group, everything=len(stalled) == len(found))
        for group in _groups(stalled, len(found))
    ]
    return any(raised)


_ACCEPTS_NOTHING = (
    "RabbitMQ: check memory and disk alarms (rabbitmq-diagnostics alarms); if there is none, restart the leader of "
    "the queue (docs/runbooks/queue-accepts-no-messages.md)"
)
_DELIVERS_NOTHING = (
    "start or restart the worker of this queue; if it has consumers and that does not help, restart the RabbitMQ node "
    "that hosts the leader of the queue (docs/runbooks/queue-accepts-no-messages.md)"
)


def _groups(affected: Sequence[State], total: int) -> list[Sequence[State]]:
    return [affected] if affected and len(affected) == total else [[state] for state in affected]


def _raise(connection: Connection, kind: str, what_to_do: str, group: Sequence[State], *, everything: bool) -> bool:
    subject = "all queues" if everything else group[0].name
    message = "; ".join(problem for state in group if (problem := state.problem()))
    details = {
        "kind": kind,
        "subject": subject,
        "queues": [state.name for state in group],
        "reason": group[0].reason,
        "what_to_do": what_to_do,
    }
    return alerts.raise_once(connection, ALERT_PAUSE_SECONDS, "critical", message, details) is not None
