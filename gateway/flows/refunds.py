"""Carrying out a list of refunds: claim (commit), call the providers concurrently, record (commit)."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.config import settings
from gateway.domain import refunding
from gateway.domain.refunding import RefundClaim
from gateway.flows.provider_calls import Handled, call_and_record
from gateway.outcomes import Outcome
from gateway.states import RefundStatus
from gateway.telemetry import REFUNDS


def refund(ids: Sequence[UUID], task_id: str) -> Handled:
    """Give back each of `ids` that may be, and record the outcomes."""
    with db.autocommit() as connection:
        claimed = refunding.claim(connection, ids, task_id, settings().claim_lease_seconds)
    result = Handled.before_the_calls(claimed)

    def record(outcomes: Sequence[tuple[RefundClaim, Outcome]]) -> None:
        with db.autocommit() as connection:
            recorded = {row.id: row for row in refunding.record(connection, outcomes)}
        for claim, outcome in outcomes:
            row = recorded.get(claim.instruction.id)
            result.note(claim, outcome, row)
            if row is not None and row.status == RefundStatus.COMPLETED:
                REFUNDS.labels("succeeded").inc()
            elif row is not None and row.status == RefundStatus.FAILED:
                REFUNDS.labels("failed").inc()

    call_and_record(claimed.claims, record)
    return result
