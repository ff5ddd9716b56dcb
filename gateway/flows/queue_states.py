"""The state of the queues: recorded by the relay and the workers, alerted by the relay."""

import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock

from gateway import db
from gateway.domain import queue_states
from gateway.domain.queue_states import Observation
from gateway.flows import alerts as delivery

NOTE_SECONDS = 10.0
"""How often a process notes that it takes messages from a queue, however many it takes."""
DIRECT_SECONDS = 5
"""An alert that waits longer is delivered past a broker that does not work."""

_noted: dict[str, float] = {}
_lock = Lock()


def record(observations: Sequence[Observation]) -> None:
    """Store what the relay found, and raise the alerts that are due.

    While the queue of the alerts themselves does not work, this process delivers them.
    """
    with db.begin() as connection:
        queue_states.observe(connection, observations)
    with db.begin() as connection:
        queue_states.raise_alerts(connection)
        found = queue_states.states(connection)
    if any(state.problem() for state in found if state.name == "operations"):
        delivery.deliver_overdue(DIRECT_SECONDS)


def note_taken(name: str) -> None:
    """Note that this process took a message from a queue: at most every `NOTE_SECONDS`, and only if it can be."""
    now = time.monotonic()
    with _lock:
        if now - _noted.get(name, -NOTE_SECONDS) < NOTE_SECONDS:
            return
        _noted[name] = now
    with suppress(*db.UNAVAILABLE), db.autocommit() as connection:
        queue_states.note_taken(connection, name)
