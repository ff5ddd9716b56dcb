"""Send claimed instructions to their providers: concurrently, bounded in time, without a database connection.

A message does not wait for slow calls: they continue in the background, and their outcomes are recorded on arrival.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from loguru import logger
from sqlalchemy import Connection

from gateway import db
from gateway.config import settings
from gateway.domain.payments.attempt_results import Recorded
from gateway.domain.payments.attempts import AttemptClaim, Capacity, Claimed
from gateway.flows.call_pool import CallPool
from gateway.flows.late_outcomes import LateCall, LateCallList, LateOutcomes
from gateway.outcomes import ADAPTER_ERROR, Charge, Instruction, Outcome, Unavailable, Unknown
from gateway.providers import registry
from gateway.providers.base import Provider
from gateway.reasons import reason_of
from gateway.telemetry import PROVIDER_SECONDS, log_context, log_frequent

FIRST_WAVE_SECONDS = 0.1
"""Outcomes that arrive within this time are recorded immediately, so that a slow call does not delay its neighbours."""
BUSY_WAVE_SECONDS = 0.03
"""The same while most threads are busy, so that the next message gets the threads that become free."""
IDLE_WAIT_SECONDS = 0.5
"""Time that a message waits for its calls if the process has no others: the latency of a typical provider."""
CALL_MARGIN_SECONDS = 1
CAPACITY_WAIT_SECONDS = 0.1
MARKS = 4
"""Number of times per `stuck_after_seconds` that the rows without capacity are marked as not stuck."""
CLOSE_MARGIN_SECONDS = 10

ClaimT = TypeVar("ClaimT", bound=AttemptClaim[Any])


@dataclass(slots=True)
class ProcessedList:
    """The transactions or refunds of a list, by what its message must do next with them."""

    completed: list[UUID] = field(default_factory=list)
    retry: list[UUID] = field(default_factory=list)
    busy: list[UUID] = field(default_factory=list)
    busy_seconds: int = field(default=0, compare=False)
    """The time until the leases of the busy ones expire; see `gateway.domain.payments.attempts.Claimed`."""
    interrupted: list[UUID] = field(default_factory=list)
    """The worker of their last attempt died: each must be retried alone."""
    dead: list[UUID] = field(default_factory=list)
    """Out of attempts, or nonexistent: for the dead-letter queue."""
    waiting: list[UUID] = field(default_factory=list)
    """Their merchant has too many calls in progress here: nothing was claimed or attempted."""
    in_progress: list[UUID] = field(default_factory=list)
    """Their calls continue in the background. They are checked when the lease expires, in case this process dies."""

    @classmethod
    def of_unclaimed(cls, claimed: Claimed[Any]) -> "ProcessedList":
        """Return the ids that were not claimed."""
        return cls(
            completed=claimed.completed,
            busy=claimed.busy,
            busy_seconds=claimed.busy_seconds,
            interrupted=claimed.interrupted,
            dead=claimed.exhausted + claimed.nonexistent,
            waiting=claimed.waiting,
        )

    def add(self, claim: AttemptClaim[Any], outcome: Outcome, recorded: Recorded | None) -> None:
        """Add an instruction according to its recorded status; None: another worker had finished it."""
        id = claim.instruction.id
        if recorded is not None and recorded.status == "completed":
            self.completed.append(id)
        elif recorded is not None and recorded.status != "failed":
            (self.dead if claim.last_attempt else self.retry).append(id)
        with _log_context(claim):
            status = recorded.status if recorded else "superseded"
            line = f"attempt {claim.instruction.attempt} by {claim.provider}: {outcome} -> {status}"
            log_frequent(__name__, line)


LateCallback = Callable[[ProcessedList], None]
"""A callback for the outcomes that arrive after their message has been handled."""


@dataclass(frozen=True, slots=True)
class Recording(Generic[ClaimT]):
    """The functions that record outcomes and count them."""

    record: Callable[[Connection, Sequence[tuple[ClaimT, Outcome]]], Sequence[Recorded]]
    count: Callable[[Recorded], None]

    def record_into(self, processed: ProcessedList, outcomes: Sequence[tuple[ClaimT, Outcome]]) -> ProcessedList:
        """Record `outcomes`, add them to `processed`, and return it."""
        with db.autocommit() as connection:
            recorded = {row.id: row for row in self.record(connection, outcomes)}
        for claim, outcome in outcomes:
            processed.add(claim, outcome, recorded.get(claim.instruction.id))
        for row in recorded.values():
            self.count(row)
        return processed

    def record_late(self, outcomes: Sequence[tuple[ClaimT, Outcome]]) -> ProcessedList:
        """Record `outcomes` of calls whose message has been handled."""
        return self.record_into(ProcessedList(), outcomes)


@cache
def _pool() -> CallPool:
    return CallPool(settings().provider_threads)


@cache
def _late_outcomes() -> LateOutcomes:
    return LateOutcomes()


def capacity() -> Capacity:
    """Return how many calls may start now."""
    return replace(_pool().capacity(), note_seconds=settings().stuck_after_seconds / MARKS)


def split_by_capacity(ids: Sequence[UUID]) -> tuple[Sequence[UUID], Sequence[UUID]]:
    """Split a list into the ids to claim now and the others.

    It waits up to `CAPACITY_WAIT_SECONDS`, so that a full process does not requeue messages in a busy loop.
    """
    _pool().wait_for_capacity(len(ids), CAPACITY_WAIT_SECONDS)
    return capacity().split(ids)


def close() -> None:
    """Finish the calls in progress before this process ends."""
    if _late_outcomes.cache_info().currsize:
        _late_outcomes().close(_limit_seconds() + CLOSE_MARGIN_SECONDS)
        _late_outcomes.cache_clear()


def execute(
    claimed: Claimed[ClaimT], recording: Recording[ClaimT], late_callback: Callable[[], LateCallback] | None
) -> ProcessedList:
    """Send the claimed instructions and record the outcomes, the quick ones first.

    Slow calls continue in the background: `late_callback` creates the callback for their outcomes, which runs in
    another thread. Without it, the function waits for all calls.
    """
    processed = ProcessedList.of_unclaimed(claimed)
    if not claimed.claims:
        return processed
    was_idle = _pool().in_progress == 0
    first_wave_seconds = BUSY_WAVE_SECONDS if _pool().is_busy else FIRST_WAVE_SECONDS
    began = time.monotonic()
    calls = {_pool().start(claim.merchant_id, partial(call_provider, claim)): claim for claim in claimed.claims}
    running = _record_ended(calls, first_wave_seconds, recording, processed)
    if running and was_idle and late_callback is not None:
        running = _record_ended(running, IDLE_WAIT_SECONDS - FIRST_WAVE_SECONDS, recording, processed)
    if not running:
        return processed
    if late_callback is None:
        if overdue := _record_ended(running, _limit_seconds(), recording, processed):
            outcome = _abandon(list(overdue))
            recording.record_into(processed, [(claim, outcome) for claim in overdue.values()])
        return processed
    processed.in_progress = [claim.instruction.id for claim in running.values()]
    overdue_at, lease_until = began + _limit_seconds(), began + settings().claim_lease_seconds
    of_list: LateCallList[ClaimT] = LateCallList(recording.record_late, late_callback(), _abandon)
    late_calls = [LateCall(claim, call, overdue_at, lease_until, of_list) for call, claim in running.items()]
    _late_outcomes().add(late_calls)
    return processed


def _limit_seconds() -> float:
    return 2 * settings().provider_timeout_seconds + CALL_MARGIN_SECONDS


def _record_ended(
    calls: dict["Future[Outcome]", ClaimT], seconds: float, recording: Recording[ClaimT], processed: ProcessedList
) -> dict["Future[Outcome]", ClaimT]:
    """Record the outcomes that arrive within `seconds`; return the calls that still run."""
    ended, running = wait(calls, timeout=seconds)
    if ended:
        recording.record_into(processed, [(calls[call], call.result()) for call in ended])
    return {call: claim for call, claim in calls.items() if call in running}


def _abandon(calls: Sequence["Future[Outcome]"]) -> Outcome:
    _pool().abandon(calls)
    return Unknown("provider_timeout", f"No response within {_limit_seconds():g} s.")


def call_provider(claim: AttemptClaim[Any]) -> Outcome:
    """Send one instruction; return its outcome. An unknown outcome is followed by a status query."""
    started = time.perf_counter()
    instruction = claim.instruction
    try:
        provider = registry.provider(claim.provider)
        if claim.in_doubt:
            known = _status(provider, replace(instruction, attempt=instruction.attempt - 1))
            if not isinstance(known, Unavailable):
                return known
        outcome = _send(provider, instruction)
        if isinstance(outcome, Unknown):
            outcome = _status(provider, instruction)
    except Exception as exc:  # noqa: BLE001  # the exception does not tell whether the money moved
        with _log_context(claim):
            logger.exception("the adapter of {} raised", claim.provider)
        outcome = Unknown(ADAPTER_ERROR, reason_of(exc))
    PROVIDER_SECONDS.labels(claim.provider, type(outcome).__name__.lower()).observe(time.perf_counter() - started)
    return outcome


def _send(provider: Provider, instruction: Instruction) -> Outcome:
    return provider.charge(instruction) if isinstance(instruction, Charge) else provider.refund(instruction)


def _status(provider: Provider, instruction: Instruction) -> Outcome:
    return provider.status(instruction) if isinstance(instruction, Charge) else provider.refund_status(instruction)


def _log_context(claim: AttemptClaim[Any]) -> Any:
    subject = "transaction_id" if isinstance(claim.instruction, Charge) else "refund_id"
    return log_context(request_id=claim.request_id, **{subject: str(claim.instruction.id)})
