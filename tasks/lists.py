"""What tasks on lists of ids share: one id's failure changes nothing for its neighbours (pipeline.md)."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

from celery import signals
from celery.canvas import Signature, signature
from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain.payments.unfinished_attempts import Unfinished
from gateway.errors import RetriesExhausted
from gateway.flows import provider_calls
from gateway.flows.provider_calls import Follow, Handled, split_by_room
from gateway.reasons import reason_of
from gateway.telemetry import RETRIES, log_context
from tasks.base import BROKER_UNAVAILABLE, TRANSIENT, GatewayTask, parse_ids, publish_onward, retry_delay

RECOVERY_MARGIN_SECONDS = 1
PUBLISH_SECONDS = 30.0
"""How long publishing the next step after a late answer is retried, also while a process shuts down."""
PUBLISH_PAUSE_SECONDS = 1.0


def work_through(task: GatewayTask, ids: object, work: Callable[[list[UUID]], list[UUID]]) -> list[str] | None:
    """Run `work` on the ids of a message; its answer goes to the next task of the chain.

    An error that is not transient takes a list apart. For a single id it is the end: no attempt is left, and the
    rejected message becomes its dead letter.
    """
    parsed = parse_ids(ids)
    subject = {task.subject: str(parsed[0])} if len(parsed) == 1 else {}
    with log_context(task_id=task.request.id, **subject):
        try:
            done = work(parsed)
        except (*TRANSIENT, RetriesExhausted):
            raise
        except Exception as exc:
            error = reason_of(exc)
            if len(parsed) > 1:
                task.take_apart(parsed, error)
                task.end_chain()
                return None
            with db.begin() as connection:
                task.give_up(connection, parsed, error)
            raise
    if not done:
        task.end_chain()
        return None
    return [str(id) for id in done]


def send_on(task: GatewayTask, ids: list[UUID], result: Handled, recover: GatewayTask) -> None:
    """Republish the unfinished ids of a message: delayed, alone, or to the dead-letter queue.

    `recover` checks the calls in progress when their leases have expired, in case this process dies before.
    """
    retries = task.request.retries
    if result.in_hand:
        seconds = settings().claim_lease_seconds + RECOVERY_MARGIN_SECONDS
        recover.apply_async(([str(id) for id in result.in_hand],), countdown=seconds)
    if result.waiting:
        task.send_on(result.waiting, retries=retries)
    if result.retry:
        RETRIES.labels(task.name).inc(len(result.retry))
        task.send_on(result.retry, retries=retries + 1, countdown=retry_delay(retries))
    if result.busy:
        task.send_on(result.busy, retries=retries, countdown=max(1, result.busy_seconds))
    if result.alone:
        task.take_apart(result.alone, "the worker of its last attempt died")
    reject_dead(task, ids, result.dead)


def follow_up(task: GatewayTask) -> Follow:
    """Return the callback for results that arrive after this message has been handled; it runs in another thread."""
    onward, retries = task.onward(), int(task.request.retries)
    chain: list[Any] = list(task.request.chain or [None])
    *rest, following = chain

    def publish(result: Handled) -> None:
        if result.completed and following is not None:
            ids = [str(id) for id in result.completed]
            step = signature(following, app=task.app)
            _retry_publish(lambda: step.apply_async((ids,), chain=rest, task_id=str(uuid4())))
        if result.retry:
            RETRIES.labels(task.name).inc(len(result.retry))
            countdown = retry_delay(retries)
            _retry_publish(lambda: publish_onward(onward, result.retry, retries=retries + 1, countdown=countdown))
        if result.dead:
            _retry_publish(lambda: publish_onward(onward, result.dead, retries=task.max_retries))

    return publish


def _retry_publish(publish: Callable[[], object]) -> None:
    """Retry publishing for `PUBLISH_SECONDS` while the broker is unavailable; the sweep finds unpublished work."""
    deadline = time.monotonic() + PUBLISH_SECONDS
    while True:
        try:
            publish()
        except BROKER_UNAVAILABLE as exc:
            if time.monotonic() >= deadline:
                raise
            logger.warning("the next step after a late answer waits for the broker: {}", reason_of(exc))
            time.sleep(PUBLISH_PAUSE_SECONDS)
        else:
            return


def recover_unfinished(
    task: GatewayTask, ids: object, find: Callable[[list[UUID]], Unfinished], again: Callable[[list[str]], Signature]
) -> None:
    """Enqueue each of `ids` whose worker died, alone, by `again`; check the leased ones again later."""
    parsed = parse_ids(ids)
    with log_context(task_id=task.request.id):
        found = find(parsed)
        if found.leased:
            task.send_on(found.leased, retries=task.request.retries, countdown=found.lease_seconds)
        if found.interrupted:
            logger.warning("the worker of {} calls died; each is retried alone", len(found.interrupted))
        for id in found.interrupted:
            again([str(id)]).apply_async()


def work_as_room_allows(task: GatewayTask, ids: list[UUID], work: Callable[[Sequence[UUID]], Handled]) -> Handled:
    """Do `work` on a list; for a list of a bulk queue, only on the part for which there may be room.

    The rest comes first when the list is requeued. A list of a main queue may contain several merchants, so all of
    it is processed: each merchant may have room.
    """
    now, later = split_by_room(ids) if task.came_in_bulk else (ids, [])
    result = work(now)
    result.waiting[:0] = later
    return result


def reject_dead(task: GatewayTask, ids: list[UUID], dead: list[UUID]) -> None:
    """Let the broker dead-letter `dead`: this message when it holds nothing else, or else one of their own."""
    if not dead:
        return
    if len(dead) == len(ids):
        raise RetriesExhausted(f"no attempt is left for {', '.join(map(str, dead))}")
    task.send_on(dead, retries=task.max_retries)


@signals.worker_process_shutdown.connect
def _finish_calls(**_: Any) -> None:
    provider_calls.close()
