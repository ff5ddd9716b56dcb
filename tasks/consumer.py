"""The workers' message consumer, hardened (pipeline.md, Tasks).

Stock Celery acknowledges, and so loses, a message that it cannot decode, dies of a malformed body, waits up to 30 s
before it connects again, and loses the result of a child that it is just reading when the connection breaks.
"""

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from celery.utils.log import get_logger
from celery.worker import loops
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Connection
from kombu.asynchronous import Hub

logger = get_logger(__name__)

RECONNECT_MAX_SECONDS = 3
EVENTS_TIMEOUT_SECONDS = 1
EVENTS_PAUSE_SECONDS = 0.2
READ_ON_SECONDS = 2.0
READ_PAUSE_SECONDS = 0.01
LAST_SECONDS = 90.0
"""What a worker that cannot go on gets for the tasks in hand; as long as an operator is told to give it."""


def reset_between_messages(hub: Hub) -> None:
    """Reset the event loop once the results that are being read have come to their end.

    A large result arrives in two parts. Were the second one left in the pipe, nothing that this child says would be
    understood again: its task never ends, its time limit kills it, and the worker dies of the rest in the pipe.
    """
    deadline = time.monotonic() + READ_ON_SECONDS
    readers: dict[int, Any] = dict(hub.readers)
    for reader, _ in readers.values():
        if isinstance(reader, Generator):
            _read_on(reader, deadline)
    Hub.reset(hub)


def _read_on(reader: Generator[object, None, None], deadline: float) -> None:
    """Have a reader come to the end of its message; the child that should send the rest may have died."""
    with suppress(StopIteration, Exception):  # whatever it raises, Celery would not have read on at all
        while time.monotonic() < deadline:
            next(reader)
            time.sleep(READ_PAUSE_SECONDS)


def run_loop(consumer: Any, connection: Any, tasks: Any, blueprint: Any, hub: Any, *rest: Any) -> None:
    """Celery's event loop. When it ends for another reason than the connection, so does this process, in bounded time.

    Celery then waits for the tasks in hand, even for one that will never end.
    """
    if hub is not None:
        hub.reset = partial(reset_between_messages, hub)
    try:
        (loops.asynloop if hub else loops.synloop)(consumer, connection, tasks, blueprint, hub, *rest)
    except Exception as exc:
        if not isinstance(exc, (*consumer.connection_errors, *consumer.channel_errors)):
            last = threading.Timer(LAST_SECONDS, os._exit, [os.EX_SOFTWARE])
            last.daemon = True
            last.start()
        raise


class Consumer(CeleryConsumer):
    """Rejects what it cannot read, so that the broker dead-letters it; reconnects within 3 s."""

    connection_errors: tuple[type[Exception], ...]
    loop = staticmethod(run_loop)
    hub: Any
    _flush_events: Callable[[], None]
    """Celery's, which its stubs do not know."""
    _events_due = 0.0
    """When the events that gather are sent (`time.monotonic`)."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[valid-type,misc]  # a class, say the stubs what they may
        """Celery's steps but for the one that declares the delay queues at every broker URL: `tasks.topology` does.

        While a node of a cluster is away, that step holds the worker for 17 s before it takes a message.
        """

        default_steps: ClassVar[list[str]] = [
            step for step in CeleryConsumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        ]

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body cannot be decoded."""
        logger.critical("undecodable message rejected: %r", exc)
        message.reject_log_error(logger, self.connection_errors)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Celery's handler, which rejects a message whose headers or body are malformed."""
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

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Connection:
        """The connection of the event dispatcher: without confirms, and with short timeouts.

        It publishes from the worker's main loop, so that with confirms a memory alarm of the broker would stop it.
        """
        connection = self.app.connection_for_write(url=url, heartbeat=heartbeat)
        connection.transport_options = {
            **(connection.transport_options or {}),
            "confirm_publish": False,
            "read_timeout": EVENTS_TIMEOUT_SECONDS,
            "write_timeout": EVENTS_TIMEOUT_SECONDS,
        }
        return self.ensure_connected(connection)

    def on_send_event_buffered(self) -> None:  # type: ignore[override]  # Celery ignores what it returns
        """Have events of tasks gather for a moment; Celery sends one before the task that it tells of may begin.

        The timer is forgotten when the connection is lost, so a moment that has passed counts as over.
        """
        now = time.monotonic()
        if self.hub is not None and now >= self._events_due:
            self._events_due = now + EVENTS_PAUSE_SECONDS
            self.hub.call_later(EVENTS_PAUSE_SECONDS, self._flush_events)

    def shutdown(self) -> None:
        """Celery's, after the last events."""
        self._flush_events()
        super().shutdown()

    def ensure_connected(self, conn: Connection) -> Connection:
        """Celery's, with a pause between two tries that stays short."""
        ensure: Any = conn.ensure_connection

        def ensure_soon(errback: Any, max_retries: int | None, callback: Any = None, **_: Any) -> Any:
            return ensure(
                errback,
                max_retries,
                interval_start=1,
                interval_step=1,
                interval_max=RECONNECT_MAX_SECONDS,
                callback=callback,
            )

        conn.ensure_connection = ensure_soon  # type: ignore[method-assign,assignment]  # Celery passes no intervals
        return super().ensure_connected(conn)
