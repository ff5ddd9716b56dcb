"""Record the state of the queues as the relay and the workers observe it, and raise alerts."""

import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock

from gateway import db
from gateway.domain.operations import queue_states
from gateway.domain.operations.queue_states import Observation
from gateway.flows import alerts as delivery

__all__ = ["Observation", "note_taken", "record"]

NOTE_SECONDS = 10.0
"""The minimum interval at which a process records that it consumes a queue."""
DIRECT_SECONDS = 5
"""An alert that waits longer is delivered without the broker."""

_noted: dict[str, float] = {}
_lock = Lock()


def record(observations: Sequence[Observation]) -> None:
    """Store the observations of the relay, and raise the alerts that are due.

    If the queue of the alerts has a problem, deliver the alerts in this process.
    """
    with db.begin() as connection:
        queue_states.observe(connection, observations)
    with db.begin() as connection:
        queue_states.raise_alerts(connection)
        found = queue_states.states(connection)
    if any(state.problem() for state in found if state.name == "operations"):
        delivery.deliver_overdue(DIRECT_SECONDS)


def note_taken(name: str) -> None:
    """Record that this process consumed a message of a queue: at most every `NOTE_SECONDS`, ignoring outages."""
    now = time.monotonic()
    with _lock:
        if now - _noted.get(name, -NOTE_SECONDS) < NOTE_SECONDS:
            return
        _noted[name] = now
    with suppress(*db.UNAVAILABLE), db.autocommit() as connection:
        queue_states.note_taken(connection, name)
