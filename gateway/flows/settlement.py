"""Settling a list of transactions: claim (commit), call the providers concurrently, record (commit)."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.config import settings
from gateway.domain import settlements
from gateway.domain.attempts import Recorded
from gateway.flows.provider_calls import Handled, carry_out
from gateway.states import TransactionStatus
from gateway.telemetry import PROCESSING_SECONDS, SETTLEMENTS, labelled


def settle(ids: Sequence[UUID], task_id: str) -> Handled:
    """Charge each of `ids` that may be charged, and record the outcomes."""
    with db.autocommit() as connection:
        claimed = settlements.claim(connection, ids, task_id, settings().claim_lease_seconds)
    return carry_out(claimed, settlements.record, _count)


def _count(recorded: Recorded) -> None:
    if recorded.status == TransactionStatus.COMPLETED:
        labelled(SETTLEMENTS, "succeeded").inc()
        PROCESSING_SECONDS.observe(recorded.seconds)
    elif recorded.status == TransactionStatus.FAILED:
        labelled(SETTLEMENTS, "failed").inc()
