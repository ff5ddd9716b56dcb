"""The relay: publishes the messages of the outbox, `python -m tasks.relay`.

PostgreSQL notifies it of new rows; a lost notification costs OUTBOX_POLL_SECONDS. It takes rows, publishes them with
confirms, and commits their deletion: a crash in between publishes them again, and the claims drop the duplicate.
Several relays share the work (SKIP LOCKED). A single row is published immediately, a backlog in lists of
MESSAGE_MAX_IDS. In a backlog merchants take turns, and rows of a merchant beyond one list go to the bulk queues
(docs/fairness.md). Every WEBHOOKS_DUE_SECONDS the relay enqueues the webhooks that are due.
"""

import argparse
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import islice
from typing import Any
from uuid import UUID

from celery.canvas import Signature
from kombu import Connection, Producer
from loguru import logger

from celeryconfig import BULK_SUFFIX
from gateway.config import settings
from gateway.flows import DATABASE_UNAVAILABLE, clocks, outbox, upkeep
from gateway.flows import alerts as alert_delivery
from gateway.flows import webhooks as webhook_delivery
from gateway.flows.outbox import OutboxRow, Topic, Turns
from gateway.reasons import doing, reason_of
from gateway.telemetry import PUBLISHED, configure_logging
from tasks import alerts, app, dead_letters, reconciliation, refunds, transactions, webhooks
from tasks.base import BROKER_UNAVAILABLE, GatewayTask, publishing_with, refused_by_queue
from tasks.queue_watch import AVOID_SECONDS, AvoidedQueues, QueueWatch

BATCH_MAX = 20 * settings().message_max_ids
CONFIRM_TIMEOUT_SECONDS = 5
SOCKET_TIMEOUT_SECONDS = 5
RETRY_PAUSE_SECONDS = 1.0
OUTAGE_ALERT_SECONDS = 10.0
WEBHOOKS_DUE_SECONDS = 5.0
PAYMENT_QUEUES = ("transaction.created", "settlement.requested")
READY_MAX = 8
"""With more messages than this waiting for a worker, all its processes are busy."""
LENGTH_CHECK_SECONDS = 0.25
"""The interval at which the lengths of queues are checked; for each single payment it would be a sixth of the relay."""
HOLD_SECONDS = 0.5
HOLD_POLL_SECONDS = 0.05
PAUSE_PER_ROW_SECONDS = 0.005
PAUSE_MAX_SECONDS = 0.2
"""The pause in which the rows of the next batch collect grows with the last batch. After a single payment there is
none; above 200 payments a second, where lists save much, it reaches its maximum."""

BULK_SIGNATURE_OF: dict[str, Callable[[list[str]], Signature]] = {
    Topic.TRANSACTION_CREATED: partial(transactions.accepted, bulk=True),
    Topic.SETTLEMENT_REQUESTED: partial(transactions.to_settle, bulk=True),
    Topic.REFUND_REQUESTED: refunds.to_refund_in_bulk,
}
"""The same work by the bulk queues, where the backlog of one merchant does not delay other merchants."""

SIGNATURE_OF: dict[str, Callable[[list[str]], Signature]] = {
    Topic.TRANSACTION_CREATED: transactions.accepted,
    Topic.SETTLEMENT_REQUESTED: transactions.to_settle,
    Topic.REFUND_REQUESTED: refunds.refund.s,
    Topic.ALERT_RAISED: alerts.deliver_alerts.s,
    Topic.WEBHOOK_DUE: webhooks.deliver.s,
    Topic.RECONCILIATION_REQUESTED: reconciliation.reconcile_as_requested.s,
    Topic.DEAD_LETTER_JOB_DUE: dead_letters.run_job_step.s,
}
"""The work of each topic on a list of ids."""

TASK_OF: dict[str, GatewayTask] = {
    Topic.TRANSACTION_CREATED: transactions.route,
    Topic.SETTLEMENT_REQUESTED: transactions.settle,
    Topic.REFUND_REQUESTED: refunds.refund,
    Topic.ALERT_RAISED: alerts.deliver_alerts,
    Topic.WEBHOOK_DUE: webhooks.deliver,
    Topic.RECONCILIATION_REQUESTED: reconciliation.reconcile_as_requested,
    Topic.DEAD_LETTER_JOB_DUE: dead_letters.run_job_step,
}
"""The first task of each topic's work."""

Lane = tuple[str, bool, UUID | None]
"""A topic, whether its work is bulk, and the merchant of the bulk."""


def _lanes(rows: Iterable[OutboxRow], size: int) -> dict[Lane, list[str]]:
    """Group the subjects of a batch into lanes: the first `size` of each merchant together, the others per merchant."""
    lanes: defaultdict[Lane, list[str]] = defaultdict(list)
    taken: Counter[tuple[str, UUID]] = Counter()
    for row in rows:
        lane: Lane = (row.topic, False, None)
        if row.merchant_id is not None and row.topic in BULK_SIGNATURE_OF:
            taken[row.topic, row.merchant_id] += 1
            if taken[row.topic, row.merchant_id] > size:
                lane = (row.topic, True, row.merchant_id)
        lanes[lane].append(str(row.subject_id))
    return lanes


@cache
def queue_of(topic: str) -> str:
    """Return the queue for the messages of a topic."""
    return TASK_OF[topic].queue_name


def _publish(producer: Producer, avoided: AvoidedQueues, rows: Sequence[OutboxRow]) -> None:
    """Publish the lists of a batch, bulk lists last; they use the main queue while the bulk queue is avoided."""
    size, avoided_names = settings().message_max_ids, avoided.names()
    lanes = _lanes(rows, size)
    for topic, is_bulk, merchant_id in sorted(lanes, key=lambda lane: lane[1]):
        queue = queue_of(topic)
        work = SIGNATURE_OF[topic]
        if is_bulk and queue + BULK_SUFFIX not in avoided_names:
            queue, work = queue + BULK_SUFFIX, BULK_SIGNATURE_OF[topic]
        waiting = iter(lanes[topic, is_bulk, merchant_id])
        while subjects := list(islice(waiting, size)):
            try:
                with publishing_with(producer):
                    work(subjects).apply_async(retry=False, confirm_timeout=CONFIRM_TIMEOUT_SECONDS, mandatory=True)
            except BROKER_UNAVAILABLE as exc:
                exc.add_note(f"publishing to {queue}, whose confirm is waited for {CONFIRM_TIMEOUT_SECONDS} s")
                if refused_by_queue(exc):
                    avoided.avoid(queue, AVOID_SECONDS)
                raise
            PUBLISHED.labels(topic).inc(len(subjects))


def relay_once(
    producer: Producer,
    await_notification: Callable[[], None] = lambda: None,
    turns: Turns | None = None,
    avoided: AvoidedQueues | None = None,
) -> int:
    """Publish the waiting rows in one batch after `await_notification`; return the number of rows. `turns` is updated.

    Rows for an avoided queue stay in the outbox, so a queue that accepts no messages neither delays the others nor
    causes repeated publishing of the rows before its own.

    Raises:
        BROKER_UNAVAILABLE, DATABASE_UNAVAILABLE: all rows are still in the outbox, although some may be published.
    """
    avoided = AvoidedQueues() if avoided is None else avoided
    avoided_names = avoided.names()
    return outbox.publish_batch(
        partial(_publish, producer, avoided),
        BATCH_MAX,
        turns or Turns(),
        without=[topic for topic in Topic if queue_of(topic) in avoided_names] if avoided_names else [],
        await_notification=await_notification,
    )


def _pause_after(published: int) -> float:
    """Return the seconds until the next batch."""
    return min(PAUSE_MAX_SECONDS, max(0, published - 1) * PAUSE_PER_ROW_SECONDS)


def _workers_are_busy(producer: Producer, avoided: AvoidedQueues) -> bool:
    channel: Any = producer.channel
    return any(_length(channel, name) > READY_MAX for name in PAYMENT_QUEUES if name not in avoided.names())


def _length(channel: Any, name: str) -> int:
    with doing(f"waiting for the length of {name} for at most {SOCKET_TIMEOUT_SECONDS} s"):
        length: int = channel.queue_declare(name, passive=True).message_count
    return length


def _hold(producer: Producer, avoided: AvoidedQueues, stop: threading.Event) -> None:
    """Wait while the workers are busy, so that rows collect in the outbox and are published in longer lists.

    The calls of one list run concurrently. A queue full of single payments would be processed one provider call after
    the other.
    """
    until = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < until and not stop.is_set() and _workers_are_busy(producer, avoided):
        stop.wait(HOLD_POLL_SECONDS)


def broker_connection(timeout_seconds: int = SOCKET_TIMEOUT_SECONDS) -> Connection:
    """Return a connection that cannot hang: with publisher confirms and socket timeouts."""
    connection = app.connection_for_write()
    connection.transport_options = {
        **(connection.transport_options or {}),
        "confirm_publish": True,
        "read_timeout": timeout_seconds,
        "write_timeout": timeout_seconds,
    }
    return connection


class Periodic:
    """An action between two batches, at most once per interval."""

    def __init__(self, seconds: float, action: Callable[[], object]) -> None:
        self._seconds = seconds
        self._action = action
        self._next = 0.0

    def run_if_due(self) -> None:
        """Run the action if the interval has passed."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._seconds
            self._action()


def alert_of_outage() -> None:
    """Raise the alert of a lagging outbox, if due, and deliver it without the broker, which is unavailable."""
    upkeep.alert_lagging_outbox()
    alert_delivery.deliver_overdue()


def run(stop: threading.Event, avoided: AvoidedQueues | None = None) -> None:
    """Relay until `stop` is set, even after outages of broker and database."""
    avoided = AvoidedQueues() if avoided is None else avoided
    outage = Periodic(OUTAGE_ALERT_SECONDS, alert_of_outage)
    webhooks_due = Periodic(WEBHOOKS_DUE_SECONDS, webhook_delivery.enqueue_due)
    while not stop.is_set():
        try:
            with (
                broker_connection() as connection,
                app.amqp.Producer(connection, auto_declare=False) as producer,
                outbox.listening() as wait_for_notification,
            ):
                hold = Periodic(LENGTH_CHECK_SECONDS, partial(_hold, producer, avoided, stop))
                turns = Turns()  # there may be a backlog, for which no notification arrives
                # Each node once: by default, kombu would retry forever, at intervals of up to 30 s.
                connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1))
                logger.info("relaying to {}", connection.as_uri())
                while not stop.is_set():
                    webhooks_due.run_if_due()
                    timeout = 0 if turns.backlog else settings().outbox_poll_seconds
                    published = relay_once(producer, partial(wait_for_notification, timeout), turns, avoided)
                    stop.wait(_pause_after(published))
                    hold.run_if_due()
        except BROKER_UNAVAILABLE as exc:
            logger.warning(
                "the broker does not accept messages, retry in {} s: {}", RETRY_PAUSE_SECONDS, reason_of(exc)
            )
            with suppress(*DATABASE_UNAVAILABLE):
                outage.run_if_due()
            stop.wait(RETRY_PAUSE_SECONDS)
        except DATABASE_UNAVAILABLE as exc:
            logger.warning("the database is unavailable, retry in {} s: {}", RETRY_PAUSE_SECONDS, reason_of(exc))
            stop.wait(RETRY_PAUSE_SECONDS)


def main() -> int:
    """Relay until SIGTERM or SIGINT; finish the current batch first."""
    argparse.ArgumentParser(prog="python -m tasks.relay", description=__doc__).parse_args()
    configure_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    clocks.watch()
    avoided = AvoidedQueues()
    watch = QueueWatch(broker_connection, avoided)
    watching = threading.Thread(target=watch.run, args=(stop,), name="queue-watch", daemon=True)
    watching.start()
    try:
        run(stop, avoided)
    finally:
        stop.set()
    watching.join()
    logger.info("relay stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
