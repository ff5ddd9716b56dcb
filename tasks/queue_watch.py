"""Looks at the work queues as the pipeline uses them: does each take a message, and is that message taken?

The relay runs the watch in a thread of its own, with a connection of its own, so that it goes on while the relay waits
for a broker that does not answer. A probe is a task like any other: its message is published with a confirm, and the
worker of the queue notes that it came. So a queue that is down, full or without a leader is found although the broker
and its management API answer, and so is one whose messages nobody takes.
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
from gateway import db
from gateway.domain.queue_states import Observation
from gateway.flows import queue_states
from gateway.reasons import doing, reason_of
from tasks import app
from tasks.base import BROKER_UNAVAILABLE, GatewayTask

LOOK_SECONDS = 10.0
"""From the end of one look at the queues to the next one."""
PROBE_TIMEOUT_SECONDS = 2
AVOID_SECONDS = 15.0
"""How long the relay leaves a queue alone that has just refused its messages: longer than to the next look at it."""
AVOID_FAILING_SECONDS = 60.0
"""The same for a queue that the watch found failing: it looks again, and tells, much sooner."""


@app.task(name="queues.take_probe", max_retries=0)
def take_probe(queue: object) -> None:
    """Note that a worker takes messages from this queue."""
    if queue in celeryconfig.WORK_QUEUE_NAMES:
        queue_states.note_taken(str(queue))


@cache
def _queue_of(task: GatewayTask) -> str:
    return task.queue_name


@signals.task_prerun.connect
def _note_taken(task: Any = None, **_: Any) -> None:
    if isinstance(task, GatewayTask) and task.name != take_probe.name:
        queue_states.note_taken(task.onward_queue if task.came_in_bulk else _queue_of(task))


class AvoidedQueues:
    """Queues that take no messages at the moment: the relay publishes what is for the others."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def avoid(self, name: str, seconds: float) -> None:
        """Leave a queue alone for so long."""
        self._until[name] = time.monotonic() + seconds

    def use(self, name: str) -> None:
        """Use a queue again."""
        self._until.pop(name, None)

    def names(self) -> set[str]:
        """The queues to be left alone now."""
        now = time.monotonic()
        return {name for name, until in list(self._until.items()) if until > now}


class QueueWatch:
    """Looks at every work queue again and again, and records what it found."""

    def __init__(self, connect: Callable[[int], Connection], avoided: AvoidedQueues) -> None:
        self._connect = connect
        self._avoided = avoided
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set, whatever fails."""
        while not stop.wait(LOOK_SECONDS):
            try:
                self.look()
            except db.UNAVAILABLE as exc:
                logger.warning("the state of the queues cannot be stored: {}", reason_of(exc))
            except Exception:  # noqa: BLE001  # whatever it is: without the watch nobody would know of an outage
                logger.exception("the queues could not be looked at")
        self.close()

    def look(self) -> list[Observation]:
        """Look at every queue once, and record what was found."""
        try:
            self._connected()
        except BROKER_UNAVAILABLE as exc:
            self.close()
            reason = f"the broker cannot be reached: {reason_of(exc)}"
            found = [Observation(name, reason) for name in celeryconfig.WORK_QUEUE_NAMES]
        else:
            found = [self._look_at(name) for name in celeryconfig.WORK_QUEUE_NAMES]
        some_work = any(observation.reason is None for observation in found)
        for observation in found:
            if observation.reason is None:
                self._avoided.use(observation.name)
            elif some_work:  # otherwise it is no matter of a queue
                self._avoided.avoid(observation.name, AVOID_FAILING_SECONDS)
        queue_states.record(found)
        return found

    def _look_at(self, name: str) -> Observation:
        try:
            return Observation(name, None, self._probe(self._connected(), name))
        except BROKER_UNAVAILABLE as exc:
            self.close()  # what it would say next belongs to this question
            return Observation(name, reason_of(exc))

    def _probe(self, producer: Producer, name: str) -> int:
        """Publish a probe to a queue; how many consumers it has.

        Messages that wait there anyway do as well, unless the queue has just refused one: it may be full.
        """
        channel: Any = producer.channel
        with doing(f"asking for the length of {name}, for at most {PROBE_TIMEOUT_SECONDS} s"):
            queue = channel.queue_declare(name, passive=True)
        if queue.message_count == 0 or name in self._avoided.names():
            with doing(f"waiting for {name} to confirm a message, for at most {PROBE_TIMEOUT_SECONDS} s"):
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
        """Close the connection; the next look opens another one."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None and connection.connected:
            amqp: Any = connection.connection
            amqp.collect()  # without AMQP's closing handshake, which a broker that does not read would not answer
