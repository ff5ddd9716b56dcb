"""Settling a list of transactions: claim (commit), call the providers concurrently, record (commit)."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.config import settings
from gateway.domain import settlements
from gateway.domain.settlements import ChargeClaim
from gateway.flows.provider_calls import Handled, call_and_record
from gateway.outcomes import Outcome
from gateway.states import TransactionStatus
from gateway.telemetry import PROCESSING_SECONDS, SETTLEMENTS


def settle(ids: Sequence[UUID], task_id: str) -> Handled:
    """Charge each of `ids` that may be charged, and record the outcomes."""
    with db.autocommit() as connection:
        claimed = settlements.claim(connection, ids, task_id, settings().claim_lease_seconds)
    result = Handled.before_the_calls(claimed)

    def record(outcomes: Sequence[tuple[ChargeClaim, Outcome]]) -> None:
        with db.autocommit() as connection:
            recorded = {row.id: row for row in settlements.record(connection, outcomes)}
        for claim, outcome in outcomes:
            row = recorded.get(claim.instruction.id)
            result.note(claim, outcome, row)
            if row is not None and row.status == TransactionStatus.COMPLETED:
                SETTLEMENTS.labels("succeeded").inc()
                PROCESSING_SECONDS.observe(row.seconds)
            elif row is not None and row.status == TransactionStatus.FAILED:
                SETTLEMENTS.labels("failed").inc()

    call_and_record(claimed.claims, record)
    return result
