"""Refunds on the queue `refund.requested`: lists of refund ids, handled as payments are (tasks.transactions)."""

from functools import partial
from uuid import UUID

from celery.canvas import Signature

from gateway.domain.payments import refunding
from gateway.errors import RetriesExhausted
from gateway.flows import refunds
from tasks import app
from tasks.base import TRANSIENT, GatewayTask
from tasks.lists import follow_up, recover_unfinished, send_on, work_as_room_allows, work_through


class RefundTask(GatewayTask):
    """A task whose ids are of refunds."""

    abstract = True
    subject = "refund_id"
    give_up = staticmethod(refunding.exhaust)


@app.task(
    name="payments.refund",
    base=RefundTask,
    bind=True,
    autoretry_for=TRANSIENT,
    max_retries=3,
    throws=(RetriesExhausted,),
)
def refund(self: RefundTask, ids: object) -> None:
    """Give back and record each id; those that failed for now travel on alone, after a delay, with one retry more."""

    def work(parsed: list[UUID]) -> list[UUID]:
        refund_these = partial(refunds.refund, task_id=str(self.request.id), follow=partial(follow_up, self))
        result = work_as_room_allows(self, parsed, refund_these)
        send_on(self, parsed, result, recover_refunds)
        return result.completed

    work_through(self, ids, work)


@app.task(name="payments.recover_refunds", base=RefundTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def recover_refunds(self: RefundTask, ids: object) -> None:
    """Carry out the refunds whose calls were in progress in a process that died."""
    recover_unfinished(self, ids, refunds.find_unfinished, to_refund_in_bulk)


def to_refund_in_bulk(ids: list[str]) -> Signature:
    """Return the task that carries out refunds by the bulk queue."""
    return refund.s(ids).set(queue=refund.onward_queue)
