"""Refunds on the queue `refund.requested`: lists of refund ids, processed like payments (tasks.transactions)."""

from functools import partial
from uuid import UUID

from celery.canvas import Signature

from gateway.flows import refunds
from tasks import app
from tasks.base import GatewayTask
from tasks.lists import late_callback, process_list, process_within_capacity, recover_unfinished, republish_unfinished


@app.task(name="payments.refund", bind=True)
def refund(self: GatewayTask, ids: object) -> None:
    """Refund each id and record its outcome; the ids to be retried are republished, with one retry more."""

    def process(parsed: list[UUID]) -> list[UUID]:
        refund_these = partial(refunds.refund, task_id=str(self.request.id), late_callback=partial(late_callback, self))
        processed = process_within_capacity(self, parsed, refund_these)
        republish_unfinished(self, parsed, processed, recover_refunds)
        return processed.completed

    process_list(self, ids, process, id_field="refund_id", exhaust=refunds.exhaust)


@app.task(name="payments.recover_refunds", bind=True)
def recover_refunds(self: GatewayTask, ids: object) -> None:
    """Carry out the refunds whose calls were in progress in a process that died."""
    recover_unfinished(self, ids, refunds.find_unfinished, to_refund_in_bulk)


def to_refund_in_bulk(ids: list[str]) -> Signature:
    """Return the task that carries out refunds by the bulk queue."""
    return refund.s(ids).set(queue=refund.republish_queue)
