"""The payment pipeline: chain(route, settle, announce) over lists of transaction ids (pipeline.md)."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from celery import chain
from celery.canvas import Signature
from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain import settlements
from gateway.errors import RetriesExhausted
from gateway.flows import routing, settlement
from gateway.telemetry import RETRIES, log_context
from tasks import app
from tasks.base import TRANSIENT, GatewayTask, parse_ids, retry_delay

TAKE_APART_AT_RETRY = 2
"""A list that failed as a whole this often is taken apart, while its parts still have retries left."""


def _list_task(task: GatewayTask, ids: object, work: Callable[[list[UUID]], list[UUID]]) -> list[str] | None:
    """Run `work` on the ids of a message; its answer goes to the next task of the chain.

    An error that is not transient takes a list apart. For a single id it is the end: no attempt is left, and the
    rejected message becomes its dead letter.
    """
    parsed = parse_ids(ids)
    with log_context(task_id=task.request.id, transaction_id=str(parsed[0]) if len(parsed) == 1 else None):
        try:
            done = work(parsed)
        except (*TRANSIENT, RetriesExhausted):
            raise
        except Exception as exc:
            if len(parsed) > 1:
                task.take_apart(parsed, f"{type(exc).__name__}: {exc}")
                task.end_chain()
                return None
            with db.begin() as connection:
                settlements.give_up(connection, parsed, f"{type(exc).__name__}: {exc}")
            raise
    if not done:
        task.end_chain()
        return None
    return [str(id) for id in done]


def _reject_dead(task: GatewayTask, ids: list[UUID], dead: list[UUID]) -> None:
    """Let the broker dead-letter `dead`: this message when it holds nothing else, or else one of their own."""
    if not dead:
        return
    if len(dead) == len(ids):
        raise RetriesExhausted(f"no attempt is left for {', '.join(map(str, dead))}")
    task.send_on(dead, retries=task.max_retries)


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
        logger.info("routed {} of {}", len(result.routed), len(parsed))
        _reject_dead(self, parsed, result.nonexistent)
        return result.routed

    return _list_task(self, ids, work)


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
        result = settlement.settle(parsed, str(self.request.id))
        retries = self.request.retries
        if result.retry:
            RETRIES.labels(self.name).inc(len(result.retry))
            self.send_on(result.retry, retries=retries + 1, countdown=retry_delay(retries))
        if result.busy:
            self.send_on(result.busy, retries=retries, countdown=settings().claim_lease_seconds)
        if result.alone:
            self.take_apart(result.alone, "the worker of its last attempt died")
        _reject_dead(self, parsed, result.dead)
        return result.completed

    return _list_task(self, ids, work)


@app.task(name="payments.announce", base=GatewayTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def announce(self: GatewayTask, ids: object) -> None:
    """Tell the log of completed settlements: the end of the chain, for whoever listens on `settlement.completed`."""
    parsed = parse_ids(ids)
    with log_context(task_id=self.request.id):
        logger.info("settled {}: {}", len(parsed), ", ".join(map(str, parsed)))


def accepted(ids: list[str]) -> Signature:
    """The work that newly accepted transactions need."""
    return chain(route.s(ids), settle.s(), announce.s())


def to_settle(ids: list[str]) -> Signature:
    """The work that routed transactions need."""
    return chain(settle.s(ids), announce.s())


__all__: list[Any] = ["accepted", "announce", "route", "settle", "to_settle"]
