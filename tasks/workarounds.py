"""Workarounds for bugs and missing settings of Celery 5.7 and kombu 5.7, with the nearest upstream issue of each.

They use the documented extension points: the setting `worker_consumer`, bootsteps, and `Celery(amqp=…)`. For each of
them a test in tests/tasks/test_workarounds.py fails when the installed versions no longer need it.
"""

import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, ClassVar

from celery import bootsteps
from celery.app import amqp
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Connection as KombuConnection
from kombu.asynchronous import Hub, set_event_loop

logger = get_logger(__name__)

EVENTS_TIMEOUT_SECONDS = 1
EVENTS_PAUSE_SECONDS = 0.2
READ_REST_SECONDS = 2.0
READ_PAUSE_SECONDS = 0.01


class Connection(KombuConnection):
    """A connection that is retried at least every 3 s.

    By default the interval grows to 30 s, for which a worker would stay idle after an outage. Celery passes kombu the
    number of retries, but no interval, and has no setting for it (see celery/celery#4627).
    """

    def ensure_connection(  # type: ignore[override]  # the stubs do not know that `max_retries` may be None
        self,
        errback: Callable[..., Any] | None = None,
        max_retries: int | None = None,
        interval_start: int = 1,
        interval_step: int = 1,
        interval_max: int = 3,
        **options: Any,
    ) -> KombuConnection:
        """Connect like kombu, with shorter intervals between two tries."""
        ensure: Any = super().ensure_connection
        connected: KombuConnection = ensure(
            errback, max_retries, interval_start, interval_step, interval_max, **options
        )
        return connected


class AMQP(amqp.AMQP):
    """Celery's AMQP with this module's connections."""

    Connection = Connection


class Consumer(CeleryConsumer):
    """Celery's consumer, which survives malformed messages and a broker that hangs."""

    connection_errors: tuple[type[Exception], ...]
    hub: Any
    event_dispatcher: Any
    """The stubs do not know these three."""
    _events_due = 0.0
    """The time at which the buffered events are sent (`time.monotonic`)."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[valid-type,misc]  # the stubs do not know that it is a class
        """Celery's steps except the one that declares the delay queues: `tasks.topology` does so at deployment.

        The step tries every broker URL, several times: while a node of a cluster is down, it delays the worker by 17 s
        before the first message. It cannot be turned off (celery/celery#9599).
        """

        default_steps: ClassVar[list[str]] = [
            step for step in CeleryConsumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        ]

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body cannot be decoded, so that the broker dead-letters it.

        Celery acknowledges, and so loses, it: the worker should not receive it forever (celery/celery#1825).
        """
        logger.critical("undecodable message rejected: %r", exc)
        message.reject_log_error(logger, self.connection_errors)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return Celery's handler, which then rejects a message with malformed headers or body.

        Celery's worker ends because of such a message, and so does the next one that receives it (celery/celery#7975,
        celery/celery#4308).
        """
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> Any:
            try:
                return handle(message)
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as exc:
                logger.critical("malformed message rejected: %r", exc, exc_info=True)
                if not message.acknowledged:
                    message.reject_log_error(logger, self.connection_errors)
                return None

        return on_task_received

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> KombuConnection:
        """Return the connection of the event dispatcher: without confirms, and with short timeouts.

        It publishes from the worker's main loop. With the publishers' options, a memory alarm or a broker that hangs
        would stop the worker (celery/celery#2312).
        """
        connection = self.app.connection_for_write(url=url, heartbeat=heartbeat)
        connection.transport_options = {
            **(connection.transport_options or {}),
            "confirm_publish": False,
            "read_timeout": EVENTS_TIMEOUT_SECONDS,
            "write_timeout": EVENTS_TIMEOUT_SECONDS,
        }
        return self.ensure_connected(connection)

    def on_send_event_buffered(self) -> None:  # type: ignore[override]  # Celery ignores the result
        """Send the events of a short time together; Celery sends each one before its task may begin.

        This saves Flower two thirds of its processor time, and a single payment 1 to 3 of 17 ms. The timer is lost with
        the connection, so a time that has passed counts as over.
        """
        now = time.monotonic()
        if self.hub is not None and now >= self._events_due:
            self._events_due = now + EVENTS_PAUSE_SECONDS
            self.hub.call_later(EVENTS_PAUSE_SECONDS, self._send_events)

    def shutdown(self) -> None:
        """Send the last events, and shut down."""
        self._send_events()
        super().shutdown()

    def _send_events(self) -> None:
        if self.event_dispatcher:
            self.event_dispatcher.flush()


class ReadingHub(Hub):
    """An event loop that reads the current results of the pool's processes to their end before it is reset.

    Celery resets the loop when the connection to the broker breaks (celery/celery#10151). A large result arrives in two
    parts. With the second one left in the pipe, nothing that this process sends could be read again
    (celery/celery#1314): its task would never end, its time limit would kill it, and the worker would die of the rest
    in the pipe.
    """

    def reset(self) -> None:
        """Reset the loop after the results that are being read."""
        deadline = time.monotonic() + READ_REST_SECONDS
        readers: dict[int, Any] = dict(self.readers)
        for reader, _ in readers.values():
            if isinstance(reader, Generator):
                _read_rest(reader, deadline)
        super().reset()


def _read_rest(reader: Generator[object, None, None], deadline: float) -> None:
    """Read a message to its end; the process that should send the rest may have died."""
    with suppress(StopIteration, Exception):  # without this, Celery would read no further
        while time.monotonic() < deadline:
            next(reader)
            time.sleep(READ_PAUSE_SECONDS)


class ReadingHubStep(bootsteps.Step):
    """Replaces the worker's event loop by a `ReadingHub` before anything uses it."""

    requires = ("celery.worker.components:Hub",)

    def include_if(self, parent: Any) -> bool:
        """Return whether the worker has an event loop."""
        return bool(parent.use_eventloop)

    def create(self, parent: Any) -> None:
        """Replace the loop."""
        parent.hub.close()
        parent.hub = set_event_loop(ReadingHub(parent.timer))
