"""Check the work queues end to end: whether each accepts a message, and whether that message is consumed.

The relay runs the watch in a separate thread with a separate connection, so that it continues while the relay waits for
a broker that does not answer. A probe is an ordinary task: its message is published with a confirm, and the worker of
the queue records its arrival. Thus the watch detects a queue that is down, full, without a leader or without consumers,
although the broker and its management API answer.
"""

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from celery import signals
from kombu import Connection, Producer
from loguru import logger

import celeryconfig
from gateway.flows import DATABASE_UNAVAILABLE, queue_states
from gateway.flows.queue_states import Observation
from gateway.reasons import doing, reason_of
from tasks import app
from tasks.base import BROKER_UNAVAILABLE, GatewayTask

CHECK_SECONDS = 10.0
"""The pause between two checks of the queues."""
PROBE_TIMEOUT_SECONDS = 2
AVOID_SECONDS = 15.0
"""Time for which the relay avoids a queue that has refused its messages: longer than the interval of the checks."""
AVOID_FAILING_SECONDS = 60.0
"""The same for a queue that failed a check; the next check updates it much sooner."""


@app.task(name=celeryconfig.PROBE_TASK, max_retries=0)
def take_probe(queue: object) -> None:
    """Record that a worker consumes this queue."""
    if queue in celeryconfig.WORK_QUEUE_NAMES:
        queue_states.note_taken(str(queue))


@cache
def _queue_of(task: GatewayTask) -> str:
    return task.queue_name


@signals.task_prerun.connect
def _note_taken(task: Any = None, **_: Any) -> None:
    if isinstance(task, GatewayTask) and task.name != take_probe.name:
        queue_states.note_taken(task.republish_queue if task.is_bulk_message else _queue_of(task))


class AvoidedQueues:
    """The queues that currently accept no messages, which the relay skips."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def avoid(self, name: str, seconds: float) -> None:
        """Avoid a queue for `seconds`."""
        self._until[name] = time.monotonic() + seconds

    def use(self, name: str) -> None:
        """Use a queue again."""
        self._until.pop(name, None)

    def names(self) -> set[str]:
        """Return the queues to avoid now."""
        now = time.monotonic()
        return {name for name, until in list(self._until.items()) if until > now}


class QueueWatch:
    """Checks every work queue periodically, and records the observations."""

    def __init__(self, connect: Callable[[int], Connection], avoided: AvoidedQueues) -> None:
        self._connect = connect
        self._avoided = avoided
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    def run(self, stop: threading.Event) -> None:
        """Check the queues until `stop` is set, regardless of errors."""
        while not stop.wait(CHECK_SECONDS):
            try:
                self.check()
            except DATABASE_UNAVAILABLE as exc:
                logger.warning("the state of the queues cannot be stored: {}", reason_of(exc))
            except Exception:  # noqa: BLE001  # the watch must continue: it detects outages
                logger.exception("the queues could not be checked")
        self.close()

    def check(self) -> list[Observation]:
        """Check every queue once, and record the observations."""
        found: list[Observation] = []
        unreachable: str | None = None
        for name in celeryconfig.WORK_QUEUE_NAMES:
            unreachable = unreachable or self._reason_unreachable()  # only once: each try may take seconds
            found.append(Observation(name, unreachable) if unreachable else self._check_queue(name))
        some_accept = any(observation.reason is None for observation in found)
        for observation in found:
            if observation.reason is None:
                self._avoided.use(observation.name)
            elif some_accept:  # otherwise the cause is not a single queue
                self._avoided.avoid(observation.name, AVOID_FAILING_SECONDS)
        queue_states.record(found)
        return found

    def _reason_unreachable(self) -> str | None:
        """Connect if there is no connection; return the reason if that fails."""
        try:
            self._connected()
        except BROKER_UNAVAILABLE as exc:
            self.close()
            return f"the broker cannot be reached: {reason_of(exc)}"
        return None

    def _check_queue(self, name: str) -> Observation:
        try:
            return Observation(name, None, self._probe(self._connected(), name))
        except BROKER_UNAVAILABLE as exc:
            self.close()  # a late reply on this channel would belong to this check
            return Observation(name, reason_of(exc))

    def _probe(self, producer: Producer, name: str) -> int:
        """Publish a probe to a queue; return its number of consumers.

        Waiting messages serve as a probe, unless the queue has just refused a message: it may be full.
        """
        channel: Any = producer.channel
        with doing(f"waiting for the length of {name} for at most {PROBE_TIMEOUT_SECONDS} s"):
            queue = channel.queue_declare(name, passive=True)
        if queue.message_count == 0 or name in self._avoided.names():
            with doing(f"waiting for {name} to confirm a message for at most {PROBE_TIMEOUT_SECONDS} s"):
                app.send_task(
                    take_probe.name, [name], queue=name, producer=producer, retry=False, mandatory=True,
                    confirm_timeout=PROBE_TIMEOUT_SECONDS, ignore_result=True,
                )  # fmt: skip
        consumers: int = queue.consumer_count
        return consumers

    def _connected(self) -> Producer:
        if self._producer is None:
            self._connection = self._connect(PROBE_TIMEOUT_SECONDS)
            with doing("connecting to the broker"):
                self._connection.ensure_connection(max_retries=max(0, len(self._connection.alt) - 1))
            self._producer = app.amqp.Producer(self._connection, auto_declare=False)
        return self._producer

    def close(self) -> None:
        """Close the connection; the next check opens another one."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None and connection.connected:
            amqp: Any = connection.connection
            amqp.collect()  # without AMQP's closing handshake, to which a hanging broker would not reply
