"""Refunds on the queue `refund.requested`: lists of refund ids, handled as payments are (tasks.transactions)."""

from uuid import UUID

from gateway.domain import refunding
from gateway.errors import RetriesExhausted
from gateway.flows import refunds
from tasks import app
from tasks.base import TRANSIENT, GatewayTask
from tasks.lists import send_on, work_through


class RefundTask(GatewayTask):
    """A task whose ids are of refunds."""

    abstract = True
    subject = "refund_id"
    give_up = staticmethod(refunding.give_up)


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
        result = refunds.refund(parsed, str(self.request.id))
        send_on(self, parsed, result)
        return result.completed

    work_through(self, ids, work)
