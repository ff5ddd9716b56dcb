"""What every task of the gateway shares: retries in whole seconds, lists of ids, and splitting them."""

import random
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from amqp.exceptions import AMQPError, MessageNacked
from celery import Task
from celery.canvas import Signature
from kombu import Exchange
from kombu.exceptions import OperationalError
from kombu.transport.native_delayed_delivery import MAX_LEVEL, calculate_routing_key, level_name
from loguru import logger

from celeryconfig import BULK_QUEUE_NAMES, BULK_SUFFIX
from gateway import db
from gateway import ids as ids_module
from gateway.config import settings
from gateway.config.groups import MESSAGE_IDS_LIMIT
from gateway.domain.payments import settling
from gateway.domain.payments.transactions import MAX_RETRIES
from gateway.errors import MalformedMessage, TransientError

BROKER_UNAVAILABLE = (OperationalError, AMQPError, OSError)
"""What publishing raises when the broker is away, refuses a message or cannot route it."""

TRANSIENT = (TransientError, *db.UNAVAILABLE, *BROKER_UNAVAILABLE)
"""What fails a list as a whole for a passing reason: `autoretry_for` of every task.

A broker that does not take the next message is one too, and no fault of the payment: its attempts are not used up.
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
    """Seconds until the next try: doubling, up to a cap, with half of it at random.

    Whole and at least 1: RabbitMQ's delay queues count in seconds, and below one the retry itself would fail.
    """
    config = settings()
    delay: int = min(config.retry_backoff_max_seconds, config.retry_backoff_seconds << min(retries, 16))
    return max(1, round(delay * random.uniform(0.5, 1.0)))  # noqa: S311  # jitter needs no cryptography


def parse_ids(ids: object) -> list[UUID]:
    """The ids of a message, each once.

    Raises:
        MalformedMessage: it is not a list of 1 to `MESSAGE_IDS_LIMIT` UUIDs in their canonical form.
    """
    parsed = ids_module.parse_ids(ids, MESSAGE_IDS_LIMIT)
    if parsed is None:
        raise MalformedMessage(f"expected a list of 1 to {MESSAGE_IDS_LIMIT} canonical UUIDs")
    return parsed


def publish_onward(onward: Signature, ids: Sequence[UUID], *, retries: int, countdown: int = 0) -> None:
    """Republish `ids` in a separate message, derived from the message of which `onward` is the signature."""
    options: dict[str, Any] = {"countdown": countdown} if countdown else {}
    step = onward.clone(args=([str(id) for id in ids],))
    step.apply_async(retries=retries, task_id=str(uuid4()), **options)


class GatewayTask(Task):  # type: ignore[type-arg]  # not generic at run time
    """A task that never loses its message: unroutable ones raise, retries wait whole seconds."""

    abstract = True
    mandatory = True
    max_retries = MAX_RETRIES
    default_retry_delay = WORKER_LOST_DELAY_SECONDS
    subject = "transaction_id"
    """What the ids of its messages are, for the log."""
    give_up = staticmethod(settling.exhaust)
    """Allows no further attempt at such ids; see there."""

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Publish like Celery, but retry for a while if the broker refuses the message.

        While a cluster elects a queue's new leader, for a second or two, it refuses all messages. Celery retries
        immediately, with pauses for the next task of a chain only. When a bulk queue still refuses the message after
        that, because it is full, the main queue gets it.

        Only RabbitMQ measures a `countdown`. Celery also writes the ETA into the message, by the clock of this host; a
        worker whose clock is behind would hold the message until then.
        """
        kwargs = self._delayed_by_broker(kwargs)
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
        """Celery's retry, with our own delays. The database gets a while to come back first.

        A worker that waits takes no further messages, so an outage does not burn the retries of a whole queue.
        """
        if isinstance(kwargs.get("exc"), db.UNAVAILABLE):
            db.wait_until_available(settings().claim_lease_seconds / 2)
        kwargs |= {"queue": self.onward_queue, "countdown": retry_delay(self.request.retries)}
        return super().retry(*args, **kwargs)

    def _delayed_by_broker(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return `options` with the countdown replaced by a route through RabbitMQ's delay queues, as in Celery."""
        countdown = options.get("countdown")
        if not countdown:
            return options
        kept = {name: value for name, value in options.items() if name not in {"countdown", "queue"}}
        routing_key = calculate_routing_key(int(countdown), options.get("queue") or self.onward_queue)
        return kept | {"exchange": DELAYS, "routing_key": routing_key, "declare": []}

    @property
    def queue_name(self) -> str:
        """The queue that this task's messages travel on."""
        queue: str = self.app.amqp.router.route({}, self.name)["queue"].name
        return queue

    @property
    def came_in_bulk(self) -> bool:
        """Whether the current message came from a bulk queue. The delay queues prepend to its routing key."""
        return str((self.request.delivery_info or {}).get("routing_key")).endswith(BULK_SUFFIX)

    @property
    def onward_queue(self) -> str:
        """The queue for republished ids, which must not delay first attempts: the bulk queue, if there is one."""
        bulk = f"{self.queue_name.removesuffix(BULK_SUFFIX)}{BULK_SUFFIX}"
        return bulk if bulk in BULK_QUEUE_NAMES else self.queue_name

    def send_on(self, ids: Sequence[UUID], *, retries: int, countdown: int = 0) -> None:
        """Have `ids` travel on in a message of their own, with the rest of the chain, under a task id of their own."""
        publish_onward(self.onward(), ids, retries=retries, countdown=countdown)

    def onward(self) -> Signature:
        """Return the signature with which `publish_onward` republishes ids of this message, even after the task."""
        return self.signature_from_request(args=(), queue=self.onward_queue)

    def take_apart(self, ids: Sequence[UUID], why: str) -> None:
        """Have each of `ids` travel alone, so that the one that harms the others is found."""
        logger.warning("a list of {} is taken apart: {}", len(ids), why)
        for id in ids:
            self.send_on([id], retries=self.request.retries)

    def end_chain(self) -> None:
        """Nothing is left for the next task."""
        self.request.chain = None
