"""Carrying out a list of refunds: claim (commit), call the providers concurrently, record (commit)."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.config import settings
from gateway.domain import refunding
from gateway.domain.attempts import Recorded
from gateway.flows.provider_calls import Handled, carry_out
from gateway.states import RefundStatus
from gateway.telemetry import REFUNDS


def refund(ids: Sequence[UUID], task_id: str) -> Handled:
    """Give back each of `ids` that may be, and record the outcomes."""
    with db.autocommit() as connection:
        claimed = refunding.claim(connection, ids, task_id, settings().claim_lease_seconds)
    return carry_out(claimed, refunding.record, _count)


def _count(recorded: Recorded) -> None:
    if recorded.status == RefundStatus.COMPLETED:
        REFUNDS.labels("succeeded").inc()
    elif recorded.status == RefundStatus.FAILED:
        REFUNDS.labels("failed").inc()
