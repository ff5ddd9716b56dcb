"""Whether the work queues work: by what the relay could publish and the workers took, not by what the broker says.

A broker may answer, and its management API call every queue running, while a queue takes no message or gives none out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, text

from gateway.config import settings
from gateway.domain import alerts

FAILING_ALERT_SECONDS = 30
"""A queue that takes no messages for so long is alerted: longer than the election of a leader or a restart takes."""
STALLED_MARGIN_SECONDS = 30
STALE_SECONDS = 90
"""What the relay found is worth nothing after this time: it looks much more often."""
ALERT_PAUSE_SECONDS = 600


class BrokerState(StrEnum):
    """What all queues together come to."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


def stalled_after_seconds() -> int:
    """A queue from which nobody took a message that waited so long gives none out: all of its workers cannot be busy.

    They are for as long as a provider hangs, at most.
    """
    return settings().claim_lease_seconds + STALLED_MARGIN_SECONDS


@dataclass(frozen=True, slots=True)
class Observation:
    """What the relay found of a queue: why it takes no messages, or None when it took one, and who consumes it."""

    name: str
    reason: str | None
    consumers: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The state of a queue at this moment, by the database's clock."""

    name: str
    reason: str | None
    consumers: int | None
    failing_seconds: float | None
    """For how long it takes no messages, if it does not."""
    waiting_seconds: float | None
    """For how long a message waits there that nobody has taken, if one does."""
    age_seconds: float

    @property
    def takes_messages(self) -> bool:
        """Whether messages can be published to it."""
        return self.failing_seconds is None

    @property
    def gives_messages(self) -> bool:
        """Whether its messages are taken."""
        return self.waiting_seconds is None or self.waiting_seconds <= stalled_after_seconds()

    def problem(self) -> str | None:
        """What is wrong with it, if anything is."""
        if self.failing_seconds is not None:
            return f"{self.name} has taken no messages for {self.failing_seconds:.0f} s: {self.reason}"
        if not self.gives_messages:
            consumers = "an unknown number of" if self.consumers is None else self.consumers
            return f"nothing was taken from {self.name} for {self.waiting_seconds:.0f} s; it has {consumers} consumers"
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
    """Write what the relay found. In a queue that took a message, that one waits from now on, unless another does."""
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
    """Note that a worker just took a message from this queue."""
    connection.execute(_TAKEN, {"name": name})


_STATES = text("""
    SELECT name, reason, consumers, extract(epoch FROM now() - failing_since)::float8 AS failing_seconds,
           CASE WHEN waiting_since > coalesce(taken_at, '-infinity')
                THEN extract(epoch FROM now() - waiting_since)::float8 END AS waiting_seconds,
           extract(epoch FROM now() - checked_at)::float8 AS age_seconds
    FROM queue_states WHERE checked_at > now() - make_interval(secs => :stale_seconds) ORDER BY name
""")


def states(connection: Connection) -> list[State]:
    """The state of each queue that the relay has looked at lately; none when no relay runs."""
    return [State(*row) for row in connection.execute(_STATES, {"stale_seconds": STALE_SECONDS})]


def summary(found: Sequence[State]) -> tuple[BrokerState, str | None]:
    """The state of the broker, and what is wrong."""
    problems = [problem for state in found if (problem := state.problem())]
    if not found:
        return BrokerState.UNKNOWN, "No relay has looked at the queues lately."
    if not problems:
        return BrokerState.UP, None
    down = all(not state.takes_messages for state in found)
    return BrokerState.DOWN if down else BrokerState.DEGRADED, "; ".join(problems)


def publishing_problem(connection: Connection) -> str | None:
    """Why messages cannot be published, as far as the relay knows."""
    failing = [state.problem() for state in states(connection) if not state.takes_messages]
    return "; ".join(problem for problem in failing if problem) or None


def raise_alerts(connection: Connection) -> bool:
    """Raise what is due: one alert for each queue and kind of problem, or one for all queues. Whether any was."""
    found = states(connection)
    failing = [state for state in found if (state.failing_seconds or 0) >= FAILING_ALERT_SECONDS]
    stalled = [state for state in found if state.takes_messages and not state.gives_messages]
    raised = [
        _raise(connection, "queue_takes_nothing", _TAKES_NOTHING, group, everything=len(failing) == len(found))
        for group in _groups(failing, len(found))
    ]
    raised += [
        _raise(connection, "queue_gives_nothing", _GIVES_NOTHING, group, everything=len(stalled) == len(found))
        for group in _groups(stalled, len(found))
    ]
    return any(raised)


_TAKES_NOTHING = (
    "RabbitMQ: look at memory and disk alarms (rabbitmq-diagnostics alarms); without one, restart the node that leads "
    "the queue (docs/runbooks/broker-takes-no-messages.md)"
)
_GIVES_NOTHING = (
    "start or restart the worker of this queue; if it has consumers and that does not help, restart the RabbitMQ node "
    "that leads the queue (docs/runbooks/broker-takes-no-messages.md)"
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
