"""The payment pipeline: `chain(route, settle)` over lists of transaction ids (docs/pipeline.md)."""

from collections.abc import Sequence
from functools import partial
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

from celery import chain
from celery.canvas import Signature
from celery.exceptions import Ignore
from loguru import logger

from gateway.flows import routing, settlement
from gateway.telemetry import log_context
from tasks import app
from tasks.base import GatewayTask, parse_ids
from tasks.lists import (
    dead_letter,
    late_callback,
    process_list,
    process_within_capacity,
    recover_unfinished,
    republish_unfinished,
)

SPLIT_AT_RETRY = 2
"""A list that failed as a whole this often is split, while its parts still have retries left."""

_process = partial(process_list, id_field="transaction_id", exhaust=settlement.exhaust)


@app.task(name="payments.route", bind=True)
def route(self: GatewayTask, ids: object) -> list[str]:
    """Choose a provider for each id; return the routed ids, which `settle` gets."""

    def process(parsed: list[UUID]) -> list[UUID]:
        if len(parsed) > 1 and self.request.retries >= SPLIT_AT_RETRY:
            self.split(parsed, f"failed {self.request.retries} times")
            return []
        result = routing.route(parsed)
        if len(result.routed) < len(parsed):
            logger.info(
                "routed {} of {}; the others are not pending any more, or do not exist", len(result.routed), len(parsed)
            )
        dead_letter(self, parsed, result.nonexistent)
        return result.routed

    routed = _process(self, ids, process)
    if not routed:
        raise Ignore("nothing is left for the next task of the chain")
    return [str(id) for id in routed]


@app.task(name="payments.settle", bind=True)
def settle(self: GatewayTask, ids: object) -> None:
    """Charge each id and record its outcome; the ids to be retried are republished, with one retry more."""

    def process(parsed: list[UUID]) -> list[UUID]:
        settle_these = partial(
            settlement.settle,
            task_id=str(self.request.id),
            late_callback=partial(late_callback, self, publish_settled),
        )
        processed = process_within_capacity(self, parsed, settle_these)
        republish_unfinished(self, parsed, processed, recover)
        return processed.completed

    if settled := _process(self, ids, process):
        publish_settled(settled, str(uuid5(NAMESPACE_OID, f"{announce.name} {self.request.id}")))
    if self.request.chain:
        raise Ignore("a message of an older version, whose chain contains the announcement that was just published")


@app.task(name="payments.recover", bind=True)
def recover(self: GatewayTask, ids: object) -> None:
    """Settle the transactions whose calls were in progress in a process that died."""
    recover_unfinished(self, ids, settlement.find_unfinished, partial(to_settle, bulk=True))


@app.task(name="payments.announce", bind=True)
def announce(self: GatewayTask, ids: object) -> None:
    """Log completed settlements. The message is for consumers of `settlement.completed`."""
    parsed = parse_ids(ids)
    with log_context(task_id=self.request.id):
        logger.info("settled {}: {}", len(parsed), ", ".join(map(str, parsed)))


def publish_settled(ids: Sequence[UUID], task_id: str | None = None) -> None:
    """Publish completed settlements on `settlement.completed`.

    A repeated task publishes the same `task_id`, so that listeners can recognize the repetition.
    """
    announce.apply_async(([str(id) for id in ids],), task_id=task_id or str(uuid4()))


def accepted(ids: list[str], *, bulk: bool = False) -> Signature:
    """Return the work for newly accepted transactions.

    `chain` assigns each task its id when the chain is published: a worker that dies after it published the next task
    publishes it again under the same id.
    """
    return chain(_on_queue(route.s(ids), route, bulk=bulk), _on_queue(settle.s(), settle, bulk=bulk))


def to_settle(ids: list[str], *, bulk: bool = False) -> Signature:
    """Return the work for routed transactions."""
    return _on_queue(settle.s(ids), settle, bulk=bulk)


def _on_queue(signature: Signature, task: GatewayTask, *, bulk: bool) -> Signature:
    return signature.set(queue=task.republish_queue) if bulk else signature
