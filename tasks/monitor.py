"""The monitor: takes dead letters from the dead-letter queues and stores them (docs/pipeline.md).

It runs inside the worker of the `operations` queue and reads the raw messages, because a task consumer would run the
dead task again. It must survive any bytes. A message is acknowledged after its commit; while the database is
unavailable it waits.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery import bootsteps
from celery.utils.log import get_logger
from kombu import Consumer
from kombu.message import Message

import celeryconfig
from gateway.flows import DATABASE_UNAVAILABLE, dead_letters
from gateway.flows.dead_letters import EXPIRED, DeadMessage
from gateway.ids import parse_ids, utc_now
from gateway.reasons import reason_of
from tasks import app

logger = get_logger(__name__)

BATCH_MAX = 100
BATCH_SECONDS = 0.05
"""Dead letters that arrive within this time are stored together, with one alert."""
DATABASE_PAUSE_SECONDS = 2.0
PAYLOAD_MAX_CHARACTERS = 20_000
IDS_MAX = 1_000

PAYMENT_QUEUES = frozenset({"transaction.created", "settlement.requested"})
"""Queues whose messages carry the ids of transactions that still need an outcome."""
REFUND_QUEUE = "refund.requested"
"""The queue whose messages carry the ids of refunds."""


def parse(message: Message) -> DeadMessage:
    """Parse a dead message as far as possible; it may contain any bytes."""
    raw_headers: object = message.headers
    headers: dict[str, Any] = raw_headers if isinstance(raw_headers, dict) else {}
    raw: object = message.body
    body = raw if isinstance(raw, bytes) else str(raw or "").encode(errors="replace")
    text = body.decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")
    queue, reason, dead_lettered_at = _last_dead_lettering(headers, message)
    task = headers.get("task")
    task_id = headers.get("id")
    key = task_id if isinstance(task_id, str) and 0 < len(task_id) <= 255 else None
    return DeadMessage(
        message_key=(key or f"sha256:{hashlib.sha256(body).hexdigest()}").replace("\x00", ""),
        queue=queue,
        reason=reason,
        task=task.replace("\x00", "")[:255] if isinstance(task, str) else None,
        payload=text[:PAYLOAD_MAX_CHARACTERS],
        headers=_plain(headers),
        dead_lettered_at=dead_lettered_at,
        transaction_ids=_ids(text) if queue in PAYMENT_QUEUES else (),
        refund_ids=_ids(text) if queue == REFUND_QUEUE else (),
    )


def _last_dead_lettering(headers: dict[str, Any], message: Message) -> tuple[str, str, datetime]:
    """Return queue, reason and time of the newest entry of `x-death`, without those of delay queues.

    A bulk queue is reported under the name of its main queue: both share the dead-letter queue.
    """
    entries = headers.get("x-death")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and not str(entry.get("queue")).startswith("celery_delayed_"):
            at = entry.get("time")
            when = at.replace(tzinfo=UTC) if isinstance(at, datetime) else utc_now()
            queue = str(entry.get("queue")).removesuffix(celeryconfig.BULK_SUFFIX)
            return queue, str(entry.get("reason")), when
    name = str((message.delivery_info or {}).get("routing_key") or "unknown")
    return name.removeprefix("dlq."), "unroutable" if not name.startswith("dlq.") else "published", utc_now()


def _plain(headers: dict[str, Any]) -> dict[str, Any]:
    """Return headers that can be stored as JSON in PostgreSQL."""
    shown = json.dumps(headers, default=str).replace("\\u0000", "\\ufffd")
    if len(shown) > PAYLOAD_MAX_CHARACTERS:
        return {"truncated": shown[:PAYLOAD_MAX_CHARACTERS]}
    plain: dict[str, Any] = json.loads(shown)
    return plain


def _ids(body: str) -> tuple[UUID, ...]:
    """Return the ids in a Celery message body `[[ids], {}, {}]`; none if it contains anything else."""
    try:
        ids = json.loads(body)[0][0]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ()
    return tuple(parse_ids(ids, IDS_MAX) or ())


class DeadLetterConsumer(bootsteps.ConsumerStep):
    """Consumes the dead-letter queues beside the tasks of the `operations` worker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._batch: list[Message] = []
        self._parent = parent

    def include_if(self, parent: Any) -> bool:
        """Return whether this is a worker of the `operations` queue."""
        return "operations" in parent.app.amqp.queues.consume_from

    def get_consumers(self, channel: Any) -> list[Consumer]:
        """Return one consumer of all dead-letter queues and of unroutable messages."""
        self._batch.clear()  # a new connection: the broker delivers unacknowledged messages again
        queues = [queue(channel) for queue in (*celeryconfig.DEAD_LETTER_QUEUES, celeryconfig.UNROUTED_QUEUE)]
        return [
            Consumer(
                channel,
                queues=queues,
                on_message=self._receive,
                on_decode_error=lambda message, _exc: self._receive(message),
                accept=None,
                auto_declare=False,
                prefetch_count=BATCH_MAX,
                tag_prefix="dead",
            )
        ]

    def _receive(self, message: Message) -> None:
        self._batch.append(message)
        if len(self._batch) == 1:
            self._parent.timer.call_after(BATCH_SECONDS, self._store)

    def _store(self) -> None:
        batch, self._batch = self._batch[:BATCH_MAX], self._batch[BATCH_MAX:]
        batch = [message for message in batch if message.channel is not None and message.channel.connection is not None]
        try:
            store_dead([parse(message) for message in batch])
        except DATABASE_UNAVAILABLE as exc:
            logger.warning("%d dead letters wait for the database: %s", len(batch), reason_of(exc))
            self._batch = batch + self._batch
            self._parent.timer.call_after(DATABASE_PAUSE_SECONDS, self._store)
            return
        for message in batch:
            message.ack_log_error(logger, self._parent.connection_errors)
        if self._batch:
            self._parent.timer.call_after(BATCH_SECONDS, self._store)


def store_dead(messages: list[DeadMessage]) -> None:
    """Store a batch of dead messages, except those whose loss has no consequence.

    Beat sends expired jobs again, the sweep delivers overdue alerts, and the relay sends the next probe.
    """
    money = PAYMENT_QUEUES | {REFUND_QUEUE}
    kept = [
        message
        for message in messages
        if (message.reason != EXPIRED or message.queue in money) and message.task != celeryconfig.PROBE_TASK
    ]
    stored = dead_letters.store(kept)
    logger.info(
        "dead letters: %d stored, %d requeued, %d ignored",
        len(stored.dead), len(stored.requeued), len(stored.ignored),
    )  # fmt: skip


app.steps["consumer"].add(DeadLetterConsumer)
