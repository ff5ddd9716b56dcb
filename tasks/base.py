"""The base class of all tasks: retries after whole seconds, lists of ids, and republishing some of them."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID, uuid4

from amqp.exceptions import AMQPError, MessageNacked
from celery import Task
from celery.canvas import Signature
from kombu import Exchange, Producer
from kombu.exceptions import OperationalError
from kombu.transport.native_delayed_delivery import MAX_LEVEL, calculate_routing_key, level_name
from loguru import logger

from celeryconfig import BULK_QUEUE_NAMES, BULK_SUFFIX
from gateway import ids as ids_module
from gateway.config import settings
from gateway.config.groups import MESSAGE_IDS_LIMIT
from gateway.errors import MalformedMessage, RetriesExhausted, TransientError
from gateway.flows import DATABASE_UNAVAILABLE, wait_for_database

BROKER_UNAVAILABLE = (OperationalError, AMQPError, OSError)
"""The errors of publishing: the broker is unavailable, refuses the message, or cannot route it."""

TRANSIENT = (TransientError, *DATABASE_UNAVAILABLE, *BROKER_UNAVAILABLE)
"""The temporary errors that fail a list as a whole.

They include a broker that does not accept the next message: the payment is not the cause, and keeps its attempts.
"""

DELAYS = Exchange(level_name(MAX_LEVEL), type="topic")
"""The exchange by which a delayed message enters RabbitMQ's delay queues."""
WORKER_LOST_DELAY_SECONDS = 5
ELECTION_SECONDS = 5.0
REFUSED_PAUSE_SECONDS = 0.2


def refused_by_queue(error: BaseException) -> bool:
    """Return whether one queue may have caused the error: it refused the message, or did not confirm it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MessageNacked | TimeoutError):
            return True
        found = found.__cause__
    return False


def retry_delay(retries: int) -> int:
    """Return the seconds until the next retry: exponential backoff with a cap, of which half is random.

    The delay is a whole number of at least 1: RabbitMQ's delay queues count in seconds, and with less the retry itself
    would fail. Celery's own jitter can yield 0.
    """
    config = settings()
    delay: int = min(config.retry_backoff_max_seconds, config.retry_backoff_seconds << min(retries, 16))
    return max(1, round(delay * random.uniform(0.5, 1.0)))  # noqa: S311  # jitter needs no cryptography


def parse_ids(ids: object) -> list[UUID]:
    """Return the ids of a message, each once.

    Raises:
        MalformedMessage: it is not a list of 1 to `MESSAGE_IDS_LIMIT` UUIDs in their canonical form.
    """
    parsed = ids_module.parse_ids(ids, MESSAGE_IDS_LIMIT)
    if parsed is None:
        raise MalformedMessage(f"expected a list of 1 to {MESSAGE_IDS_LIMIT} canonical UUIDs")
    return parsed


_producer: ContextVar[Producer | None] = ContextVar("producer", default=None)


@contextmanager
def publishing_with(producer: Producer) -> Iterator[None]:
    """Publish all tasks within the block with `producer`: `chain.apply_async` does not pass this option on."""
    token = _producer.set(producer)
    try:
        yield
    finally:
        _producer.reset(token)


def republish(template: Signature, ids: Sequence[UUID], *, retries: int, countdown: int = 0) -> None:
    """Publish `ids` in a separate message with a new task id; see `GatewayTask.template`."""
    options: dict[str, Any] = {"countdown": countdown} if countdown else {}
    signature = template.clone(args=([str(id) for id in ids],))
    signature.apply_async(retries=retries, task_id=str(uuid4()), **options)


class GatewayTask(Task):  # type: ignore[type-arg]  # not generic at run time
    """A task that never loses its message: publishing an unroutable message raises, and failures are retried."""

    abstract = True
    autoretry_for = TRANSIENT
    max_retries = 3
    default_retry_delay = WORKER_LOST_DELAY_SECONDS
    throws = (RetriesExhausted,)
    mandatory = True

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Publish like Celery, but retry for a while if the broker refuses the message.

        While a cluster elects a queue's new leader, for a second or two, it refuses all messages. Celery retries
        immediately, with pauses for the next task of a chain only. When a bulk queue still refuses the message after
        that, because it is full, the main queue gets it.

        Only RabbitMQ measures a `countdown`. Celery also writes the ETA into the message, by the clock of this host; a
        worker whose clock is behind would keep the message until then.
        """
        kwargs = {"producer": _producer.get()} | self._delayed_by_broker(kwargs)
        deadline = time.monotonic() + ELECTION_SECONDS
        while True:
            try:
                return super().apply_async(*args, **kwargs)
            except OperationalError as exc:
                if not isinstance(exc.__cause__, MessageNacked):
                    raise
                if time.monotonic() >= deadline:
                    if kwargs.get("queue") not in BULK_QUEUE_NAMES:
                        raise
                    kwargs["queue"] = kwargs["queue"].removesuffix(BULK_SUFFIX)
            time.sleep(REFUSED_PAUSE_SECONDS)

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Retry like Celery, with `retry_delay`, after waiting for the database for a limited time.

        A worker that waits takes no further messages, so an outage does not use up the retries of a whole queue.
        """
        if isinstance(kwargs.get("exc"), DATABASE_UNAVAILABLE):
            wait_for_database(settings().claim_lease_seconds / 2)
        kwargs |= {"queue": self.republish_queue, "countdown": retry_delay(self.request.retries)}
        return super().retry(*args, **kwargs)

    def _delayed_by_broker(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return `options` with the countdown replaced by a route through RabbitMQ's delay queues, as in Celery."""
        countdown = options.get("countdown")
        if not countdown:
            return options
        kept = {name: value for name, value in options.items() if name not in {"countdown", "queue"}}
        routing_key = calculate_routing_key(int(countdown), options.get("queue") or self.republish_queue)
        return kept | {"exchange": DELAYS, "routing_key": routing_key, "declare": []}

    @property
    def queue_name(self) -> str:
        """Return the queue of this task's messages."""
        queue: str = self.app.amqp.router.route({}, self.name)["queue"].name
        return queue

    @property
    def is_bulk_message(self) -> bool:
        """Return whether the current message came from a bulk queue. The delay queues prepend to its routing key."""
        return str((self.request.delivery_info or {}).get("routing_key")).endswith(BULK_SUFFIX)

    @property
    def republish_queue(self) -> str:
        """Return the queue for republished ids, which must not delay first attempts: a bulk queue if there is one."""
        bulk = f"{self.queue_name.removesuffix(BULK_SUFFIX)}{BULK_SUFFIX}"
        return bulk if bulk in BULK_QUEUE_NAMES else self.queue_name

    def template(self) -> Signature:
        """Return a signature from which `republish` makes messages like the current one, even after the task."""
        return self.signature_from_request(args=(), queue=self.republish_queue)

    def republish(self, ids: Sequence[UUID], *, retries: int, countdown: int = 0) -> None:
        """Publish `ids` of the current message in a separate message, with the rest of its chain."""
        republish(self.template(), ids, retries=retries, countdown=countdown)

    def split(self, ids: Sequence[UUID], reason: str) -> None:
        """Publish each of `ids` in a separate message, so that one that fails the others is isolated."""
        logger.warning("a list of {} is split: {}", len(ids), reason)
        for id in ids:
            self.republish([id], retries=self.request.retries)
