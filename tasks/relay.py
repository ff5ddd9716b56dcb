"""The relay: publishes what the outbox holds, `python -m tasks.relay`.

PostgreSQL notifies it of new rows; a notification that is lost costs OUTBOX_POLL_SECONDS. It takes rows, publishes them
with confirms, and commits their deletion: a crash in between publishes them again, and the claims drop the duplicate.
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
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Any
from uuid import UUID

from celery.canvas import Signature
from kombu import Connection, Producer
from loguru import logger
from sqlalchemy import Connection as DatabaseConnection

from celeryconfig import BULK_SUFFIX
from gateway import db
from gateway.config import settings
from gateway.domain.shared import outbox
from gateway.domain.shared.outbox import OutboxBatch, OutboxRow, Topic
from gateway.flows import alerts as delivery
from gateway.flows import clocks, upkeep
from gateway.flows import webhooks as webhook_flow
from gateway.reasons import doing, reason_of
from gateway.telemetry import PUBLISHED, configure_logging
from tasks import alerts, app, dead_letter_jobs, reconciliation, refunds, transactions, webhooks
from tasks.base import BROKER_UNAVAILABLE, GatewayTask, refused_by_queue
from tasks.queue_watch import AVOID_SECONDS, AvoidedQueues, QueueWatch

MOST_AT_ONCE = 20 * settings().message_max_ids
CONFIRM_TIMEOUT_SECONDS = 5
SOCKET_TIMEOUT_SECONDS = 5
RETRY_PAUSE_SECONDS = 1.0
OUTAGE_LOOK_SECONDS = 10.0
WEBHOOKS_DUE_SECONDS = 5.0
FED_QUEUES = ("transaction.created", "settlement.requested")
READY_MAX = 8
"""Messages that wait for a worker; with more, its processes are all busy."""
LOOK_SECONDS = 0.25
"""How often the broker is asked whether the workers are busy; for each lone payment, it is a sixth of the relay."""
HOLD_SECONDS = 0.5
HOLD_POLL_SECONDS = 0.05
GATHER_PER_ROW_SECONDS = 0.005
GATHER_MAX_SECONDS = 0.2
"""The pause in which the next list gathers: the longer, the more came at once. A lone payment's follower never waits;
above 200 payments a second, where lists pay, the pause grows to its maximum."""

BULK_WORK_OF: dict[str, Callable[[list[str]], Signature]] = {
    Topic.TRANSACTION_CREATED: partial(transactions.accepted, bulk=True),
    Topic.SETTLEMENT_REQUESTED: partial(transactions.to_settle, bulk=True),
    Topic.REFUND_REQUESTED: refunds.to_refund_in_bulk,
}
"""The same work by the bulk queues, where the backlog of one merchant does not delay other merchants."""

WORK_OF: dict[str, Callable[[list[str]], Signature]] = {
    Topic.TRANSACTION_CREATED: transactions.accepted,
    Topic.SETTLEMENT_REQUESTED: transactions.to_settle,
    Topic.REFUND_REQUESTED: refunds.refund.s,
    Topic.ALERT_RAISED: alerts.deliver_alerts.s,
    Topic.WEBHOOK_DUE: webhooks.deliver.s,
    Topic.RECONCILIATION_REQUESTED: reconciliation.reconcile_as_requested.s,
    Topic.DEAD_LETTER_JOB_DUE: dead_letter_jobs.take_step.s,
}
"""The task that does each topic's work on a list of subjects."""


Lane = tuple[str, bool, UUID | None]
"""A topic, whether its work is bulk, and the merchant of the bulk."""


@dataclass(slots=True)
class Turns:
    """The position of the relay in its turns among the merchants."""

    backlog: bool = True
    """Whether the last batch left rows behind, so that the next one takes turns. Initially there may be a backlog."""
    next_turn: UUID = outbox.FIRST_TURN


def _lanes(rows: Iterable[OutboxRow], size: int) -> dict[Lane, list[str]]:
    """Group the subjects of a batch into lanes: the first `size` of each merchant together, the others per merchant."""
    lanes: defaultdict[Lane, list[str]] = defaultdict(list)
    taken: Counter[tuple[str, UUID]] = Counter()
    for row in rows:
        lane: Lane = (row.topic, False, None)
        if row.merchant_id is not None and row.topic in BULK_WORK_OF:
            taken[row.topic, row.merchant_id] += 1
            if taken[row.topic, row.merchant_id] > size:
                lane = (row.topic, True, row.merchant_id)
        lanes[lane].append(str(row.subject_id))
    return lanes


@cache
def queue_of(topic: str) -> str:
    """Return the queue for the messages of a topic."""
    task: GatewayTask = WORK_OF[topic]([]).type
    return task.queue_name


def _publish(producer: Producer, rows: Sequence[OutboxRow], avoided: AvoidedQueues) -> None:
    """Publish the lists of a batch, bulk lists last; they use the main queue while the bulk queue is avoided."""
    size, avoided_names = settings().message_max_ids, avoided.names()
    lanes = _lanes(rows, size)
    for topic, is_bulk, merchant_id in sorted(lanes, key=lambda lane: lane[1]):
        queue = queue_of(topic)
        work = WORK_OF[topic]
        if is_bulk and queue + BULK_SUFFIX not in avoided_names:
            queue, work = queue + BULK_SUFFIX, BULK_WORK_OF[topic]
        waiting = iter(lanes[topic, is_bulk, merchant_id])
        while subjects := list(islice(waiting, size)):
            try:
                work(subjects).apply_async(
                    producer=producer, retry=False, confirm_timeout=CONFIRM_TIMEOUT_SECONDS, mandatory=True
                )
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

    Rows for an avoided queue stay in the outbox, so a queue that takes no messages neither delays the others nor causes
    repeated publishing of the rows before its own.

    Raises:
        BROKER_UNAVAILABLE, gateway.db.UNAVAILABLE: all rows are still in the outbox, although some may be published.
    """
    turns, avoided = turns or Turns(), AvoidedQueues() if avoided is None else avoided
    refusal: Exception | None = None
    if db.is_pooled():
        await_notification()  # a waiting transaction would occupy one of the pooler's few sessions
    try:
        with db.begin() as connection:
            outbox.prepare(connection)
            if not db.is_pooled():
                await_notification()
            taken = _take(connection, turns, avoided.names())
            try:
                _publish(producer, taken.rows, avoided)
            except BROKER_UNAVAILABLE as exc:
                refusal = exc
                raise
    except db.UNAVAILABLE:
        if refusal is not None:  # PostgreSQL ended the idle session while the broker did not answer
            raise refusal from refusal.__cause__
        raise
    turns.backlog, turns.next_turn = taken.more, taken.next_turn
    return len(taken.rows)


def _take(connection: DatabaseConnection, turns: Turns, avoided_queues: set[str]) -> OutboxBatch:
    """Take a batch: the oldest rows, or with a backlog in turns. There are no turns while a queue is avoided."""
    without = [topic for topic in Topic if queue_of(topic) in avoided_queues] if avoided_queues else []
    if turns.backlog and not without:
        return outbox.take_in_turns(connection, MOST_AT_ONCE, turns.next_turn)
    return outbox.take(connection, MOST_AT_ONCE, without)


def _pause_after(published: int) -> float:
    """Seconds until the next batch."""
    return min(GATHER_MAX_SECONDS, max(0, published - 1) * GATHER_PER_ROW_SECONDS)


def _workers_are_busy(producer: Producer, avoided: AvoidedQueues) -> bool:
    channel: Any = producer.channel
    return any(_length(channel, name) > READY_MAX for name in FED_QUEUES if name not in avoided.names())


def _length(channel: Any, name: str) -> int:
    with doing(f"asking for the length of {name}, for at most {SOCKET_TIMEOUT_SECONDS} s"):
        length: int = channel.queue_declare(name, passive=True).message_count
    return length


def _hold(producer: Producer, avoided: AvoidedQueues, stop: threading.Event) -> None:
    """While the workers have enough to do, let the outbox gather: a backlog is better served by longer lists.

    The calls of one list run concurrently, so a queue full of lone payments would be worked off at a provider's pace.
    """
    until = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < until and not stop.is_set() and _workers_are_busy(producer, avoided):
        stop.wait(HOLD_POLL_SECONDS)


def broker_connection(timeout_seconds: int = SOCKET_TIMEOUT_SECONDS) -> Connection:
    """A connection that cannot hang: confirms, and socket timeouts beside them."""
    connection = app.connection_for_write()
    connection.transport_options = {
        **(connection.transport_options or {}),
        "confirm_publish": True,
        "read_timeout": timeout_seconds,
        "write_timeout": timeout_seconds,
    }
    return connection


class Periodic:
    """Something to do between two batches, at most once in so many seconds."""

    def __init__(self, seconds: float, do: Callable[[], object]) -> None:
        self._seconds = seconds
        self._do = do
        self._next = 0.0

    def look(self) -> None:
        """Do it if its time has come."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._seconds
            self._do()


def alert_of_outage() -> None:
    """Raise and deliver the alert that is due, if one is: while the broker is away, alerts cannot travel by it."""
    upkeep.alert_lagging_outbox()
    delivery.deliver_overdue()


def run(stop: threading.Event, avoided: AvoidedQueues | None = None) -> None:
    """Relay until `stop` is set; an outage of broker or database is waited out."""
    avoided = AvoidedQueues() if avoided is None else avoided
    outage = Periodic(OUTAGE_LOOK_SECONDS, alert_of_outage)
    webhooks_due = Periodic(WEBHOOKS_DUE_SECONDS, webhook_flow.enqueue_due)
    while not stop.is_set():
        try:
            with (
                broker_connection() as connection,
                app.amqp.Producer(connection, auto_declare=False) as producer,
                db.listening(outbox.CHANNEL) as wait_for_notification,
            ):
                hold = Periodic(LOOK_SECONDS, partial(_hold, producer, avoided, stop))
                turns = Turns()  # there may be a backlog, for which no notification arrives
                # Each node once: left to itself, kombu would try for ever at intervals of up to 30 s.
                connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1))
                logger.info("relaying to {}", connection.as_uri())
                while not stop.is_set():
                    webhooks_due.look()
                    patience = 0 if turns.backlog else settings().outbox_poll_seconds
                    published = relay_once(producer, partial(wait_for_notification, patience), turns, avoided)
                    stop.wait(_pause_after(published))
                    hold.look()
        except BROKER_UNAVAILABLE as exc:
            logger.warning("the broker does not take messages, again in {} s: {}", RETRY_PAUSE_SECONDS, reason_of(exc))
            with suppress(*db.UNAVAILABLE):
                outage.look()
            stop.wait(RETRY_PAUSE_SECONDS)
        except db.UNAVAILABLE as exc:
            logger.warning("the database is away, again in {} s: {}", RETRY_PAUSE_SECONDS, reason_of(exc))
            stop.wait(RETRY_PAUSE_SECONDS)


def main() -> int:
    """Relay until SIGTERM or SIGINT; the batch in hand is finished."""
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
