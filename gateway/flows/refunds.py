"""Carry out refunds: claim (commit), call the providers concurrently, record (commit)."""

from collections.abc import Callable, Sequence
from uuid import UUID

from gateway import db
from gateway.config import settings
from gateway.domain.payments import refunding, unfinished_attempts
from gateway.domain.payments.attempt_results import Recorded
from gateway.domain.payments.kinds import REFUNDS as REFUND_KIND
from gateway.domain.payments.unfinished_attempts import Unfinished
from gateway.flows import provider_calls
from gateway.flows.provider_calls import LateCallback, ProcessedList, Recording, execute
from gateway.states import RefundStatus
from gateway.telemetry import REFUNDS


def refund(ids: Sequence[UUID], task_id: str, late_callback: Callable[[], LateCallback] | None = None) -> ProcessedList:
    """Send each refund of `ids` that may be attempted, and record the outcomes; see `execute` for `late_callback`."""
    with db.autocommit() as connection:
        claimed = refunding.claim(connection, ids, task_id, settings().claim_lease_seconds, provider_calls.capacity())
    return execute(claimed, _RECORDING, late_callback)


def find_unfinished(ids: Sequence[UUID]) -> Unfinished:
    """Return those of `ids` whose newest attempt has no outcome: a worker processes them, or died."""
    with db.autocommit() as connection:
        return unfinished_attempts.find(connection, REFUND_KIND, ids)


def exhaust(ids: Sequence[UUID], error: str) -> None:
    """Allow no further attempt at the unfinished ones of `ids`, because of an `error` that a retry cannot solve."""
    with db.autocommit() as connection:
        refunding.exhaust(connection, ids, error)


def _count(recorded: Recorded) -> None:
    if recorded.status == RefundStatus.COMPLETED:
        REFUNDS.labels("succeeded").inc()
    elif recorded.status == RefundStatus.FAILED:
        REFUNDS.labels("failed").inc()


_RECORDING = Recording(refunding.record, _count)
