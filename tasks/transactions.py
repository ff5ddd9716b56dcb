"""The payment pipeline: chain(route, settle, announce) over lists of transaction ids (pipeline.md)."""

from functools import partial
from typing import Any
from uuid import UUID, uuid4

from celery.canvas import Signature
from loguru import logger

from gateway.errors import RetriesExhausted
from gateway.flows import routing, settlement
from gateway.telemetry import log_context
from tasks import app
from tasks.base import TRANSIENT, GatewayTask, parse_ids
from tasks.lists import follow_up, recover_unfinished, reject_dead, send_on, work_as_room_allows, work_through

TAKE_APART_AT_RETRY = 2
"""A list that failed as a whole this often is taken apart, while its parts still have retries left."""


@app.task(
    name="payments.route",
    base=GatewayTask,
    bind=True,
    autoretry_for=TRANSIENT,
    max_retries=3,
    throws=(RetriesExhausted,),
)
def route(self: GatewayTask, ids: object) -> list[str] | None:
    """Choose a provider for each id, and hand on those that were routed."""

    def work(parsed: list[UUID]) -> list[UUID]:
        if len(parsed) > 1 and self.request.retries >= TAKE_APART_AT_RETRY:
            self.take_apart(parsed, f"failed {self.request.retries} times")
            return []
        result = routing.route(parsed)
        if len(result.routed) < len(parsed):
            logger.info(
                "routed {} of {}; the others need no route any more, or do not exist", len(result.routed), len(parsed)
            )
        reject_dead(self, parsed, result.nonexistent)
        return result.routed

    return work_through(self, ids, work)


@app.task(
    name="payments.settle",
    base=GatewayTask,
    bind=True,
    autoretry_for=TRANSIENT,
    max_retries=3,
    throws=(RetriesExhausted,),
)
def settle(self: GatewayTask, ids: object) -> list[str] | None:
    """Charge and record each id; those that failed for now travel on alone, after a delay, with one retry more."""

    def work(parsed: list[UUID]) -> list[UUID]:
        settle_these = partial(settlement.settle, task_id=str(self.request.id), follow=partial(follow_up, self))
        result = work_as_room_allows(self, parsed, settle_these)
        send_on(self, parsed, result, recover)
        return result.completed

    return work_through(self, ids, work)


@app.task(name="payments.recover", base=GatewayTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def recover(self: GatewayTask, ids: object) -> None:
    """Settle the transactions whose calls were in progress in a process that died."""
    recover_unfinished(self, ids, settlement.find_unfinished, partial(to_settle, bulk=True))


@app.task(name="payments.announce", base=GatewayTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def announce(self: GatewayTask, ids: object) -> None:
    """Tell the log of completed settlements: the end of the chain, for whoever listens on `settlement.completed`."""
    parsed = parse_ids(ids)
    with log_context(task_id=self.request.id):
        logger.info("settled {}: {}", len(parsed), ", ".join(map(str, parsed)))


def accepted(ids: list[str], *, bulk: bool = False) -> Signature:
    """The work that newly accepted transactions need."""
    return _chained(_step(route, ids, bulk=bulk), _step(settle, bulk=bulk), announce.s())


def to_settle(ids: list[str], *, bulk: bool = False) -> Signature:
    """The work that routed transactions need."""
    return _chained(_step(settle, ids, bulk=bulk), announce.s())


def _step(task: GatewayTask, *args: list[str], bulk: bool) -> Signature:
    step = task.s(*args)
    return step.set(queue=task.onward_queue) if bulk else step


def _chained(first: Signature, *rest: Signature) -> Signature:
    """What `celery.chain` makes of these, without the copies that take it as long as publishing does.

    Each step has its id from the beginning: a worker that dies after it published the next one publishes it again under
    the same id.
    """
    first.options["chain"] = [step.set(task_id=str(uuid4())) for step in reversed(rest)]
    return first


__all__: list[Any] = ["accepted", "announce", "route", "settle", "to_settle"]
