"""Settling a list of transactions: claim (commit), call the providers concurrently, record (commit)."""

from collections.abc import Callable, Sequence
from uuid import UUID

from gateway import db
from gateway.config import settings
from gateway.domain.payments import settling
from gateway.domain.payments.attempts import Recorded
from gateway.flows import provider_calls
from gateway.flows.provider_calls import LateCallback, ProcessedList, Recording, execute
from gateway.states import TransactionStatus
from gateway.telemetry import PROCESSING_SECONDS, SETTLEMENTS, labelled


def settle(ids: Sequence[UUID], task_id: str, late_callback: Callable[[], LateCallback] | None = None) -> ProcessedList:
    """Charge each of `ids` that may be charged, and record the outcomes; see `execute` for `late_callback`."""
    with db.autocommit() as connection:
        claimed = settling.claim(connection, ids, task_id, settings().claim_lease_seconds, provider_calls.room())
    return execute(claimed, _RECORDING, late_callback)


def exhaust(ids: Sequence[UUID], error: str) -> None:
    """Allow no further attempt at `ids`, whose processing fails for a reason that a retry does not change."""
    with db.begin() as connection:
        settling.exhaust(connection, ids, error)


def _count(recorded: Recorded) -> None:
    if recorded.status == TransactionStatus.COMPLETED:
        labelled(SETTLEMENTS, "succeeded").inc()
        PROCESSING_SECONDS.observe(recorded.seconds)
    elif recorded.status == TransactionStatus.FAILED:
        labelled(SETTLEMENTS, "failed").inc()


_RECORDING = Recording(settling.record, _count)
