"""Tasks on lists of ids: the failure of one id does not affect the others of its list (docs/pipeline.md)."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from celery import signals
from celery.canvas import Signature
from loguru import logger

from gateway.config import settings
from gateway.errors import RetriesExhausted
from gateway.flows import provider_calls
from gateway.flows.provider_calls import LateCallback, ProcessedList, split_by_capacity
from gateway.flows.settlement import Unfinished
from gateway.reasons import reason_of
from gateway.telemetry import RETRIES, log_context
from tasks.base import BROKER_UNAVAILABLE, TRANSIENT, GatewayTask, parse_ids, republish, retry_delay

RECOVERY_MARGIN_SECONDS = 1
PUBLISH_SECONDS = 30.0
"""Maximum time for which publishing after a late outcome is retried, also while a process shuts down."""
PUBLISH_PAUSE_SECONDS = 1.0


def process_list(
    task: GatewayTask,
    ids: object,
    process: Callable[[list[UUID]], list[UUID]],
    *,
    id_field: str,
    exhaust: Callable[[list[UUID], str], None],
) -> list[UUID]:
    """Run `process` on the ids of a message; return what it returns, the ids for the next step.

    An error that is not transient splits a list. For a single id, `exhaust` allows no further attempt, and the rejected
    message becomes its dead letter. `id_field` names the ids in the log.
    """
    parsed = parse_ids(ids)
    single = {id_field: str(parsed[0])} if len(parsed) == 1 else {}
    with log_context(task_id=task.request.id, **single):
        try:
            return process(parsed)
        except (*TRANSIENT, RetriesExhausted):
            raise
        except Exception as exc:
            error = reason_of(exc)
            if len(parsed) > 1:
                task.split(parsed, error)
                return []
            exhaust(parsed, error)
            raise


def process_within_capacity(
    task: GatewayTask, ids: list[UUID], process: Callable[[Sequence[UUID]], ProcessedList]
) -> ProcessedList:
    """Run `process` on a list; for a list of a bulk queue, only on the part for which there may be capacity.

    The rest comes first when the list is republished. A list of a main queue may contain several merchants, so all of
    it is processed: each merchant may have capacity.
    """
    now, later = split_by_capacity(ids) if task.is_bulk_message else (ids, [])
    processed = process(now)
    processed.waiting[:0] = later
    return processed


def republish_unfinished(task: GatewayTask, ids: list[UUID], processed: ProcessedList, recover: GatewayTask) -> None:
    """Republish the unfinished ids of a message: delayed, alone, or to the dead-letter queue.

    `recover` checks the calls in progress when their leases have expired, in case this process dies before.
    """
    retries = task.request.retries
    if processed.in_progress:
        seconds = settings().claim_lease_seconds + RECOVERY_MARGIN_SECONDS
        recover.apply_async(([str(id) for id in processed.in_progress],), countdown=seconds)
    if processed.waiting:
        task.republish(processed.waiting, retries=retries)
    if processed.retry:
        RETRIES.labels(task.name).inc(len(processed.retry))
        task.republish(processed.retry, retries=retries + 1, countdown=retry_delay(retries))
    if processed.busy:
        task.republish(processed.busy, retries=retries, countdown=max(1, processed.busy_seconds))
    if processed.interrupted:
        task.split(processed.interrupted, "the worker of its last attempt died")
    dead_letter(task, ids, processed.dead)


def dead_letter(task: GatewayTask, ids: list[UUID], dead: list[UUID]) -> None:
    """Have the broker dead-letter `dead`: in this message if it contains nothing else, or else in a separate one.

    Raises:
        RetriesExhausted: this message contains nothing else; its rejection dead-letters it.
    """
    if not dead:
        return
    if len(dead) == len(ids):
        raise RetriesExhausted(f"no attempt is left for {', '.join(map(str, dead))}")
    task.republish(dead, retries=task.max_retries)


def late_callback(task: GatewayTask, announce: Callable[[list[UUID]], object] | None = None) -> LateCallback:
    """Return the callback for outcomes that arrive after this message has been handled; it runs in another thread.

    It publishes the retries and the dead ids, and passes the completed ids to `announce`.
    """
    template, retries = task.template(), int(task.request.retries)

    def publish(processed: ProcessedList) -> None:
        if processed.completed and announce is not None:
            _retry_publishing(lambda: announce(processed.completed))
        if processed.retry:
            RETRIES.labels(task.name).inc(len(processed.retry))
            countdown = retry_delay(retries)
            _retry_publishing(lambda: republish(template, processed.retry, retries=retries + 1, countdown=countdown))
        if processed.dead:
            _retry_publishing(lambda: republish(template, processed.dead, retries=task.max_retries))

    return publish


def _retry_publishing(publish: Callable[[], object]) -> None:
    """Retry publishing for `PUBLISH_SECONDS` while the broker is unavailable; the sweep finds unpublished work."""
    deadline = time.monotonic() + PUBLISH_SECONDS
    while True:
        try:
            publish()
        except BROKER_UNAVAILABLE as exc:
            if time.monotonic() >= deadline:
                raise
            logger.warning("the next step after a late outcome waits for the broker: {}", reason_of(exc))
            time.sleep(PUBLISH_PAUSE_SECONDS)
        else:
            return


def recover_unfinished(
    task: GatewayTask,
    ids: object,
    find: Callable[[list[UUID]], Unfinished],
    signature_of: Callable[[list[str]], Signature],
) -> None:
    """Publish each of `ids` whose worker died, alone, by `signature_of`; check the leased ones again later."""
    parsed = parse_ids(ids)
    with log_context(task_id=task.request.id):
        found = find(parsed)
        if found.leased:
            task.republish(found.leased, retries=task.request.retries, countdown=found.lease_seconds)
        if found.interrupted:
            logger.warning("the worker of {} calls died; each is retried alone", len(found.interrupted))
        for id in found.interrupted:
            signature_of([str(id)]).apply_async()


@signals.worker_process_shutdown.connect
def _finish_calls(**_: Any) -> None:
    provider_calls.close()
