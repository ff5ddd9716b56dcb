"""Send claimed instructions to their providers: concurrently, bounded in time, without a database connection.

A message does not wait for slow calls: they continue in the background, and their answers are recorded on arrival.
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
from gateway.domain.payments.attempts import AttemptClaim, Claimed, Room
from gateway.flows.call_pool import CallPool
from gateway.flows.late_answers import LateAnswers, LateCall, LateCallList
from gateway.outcomes import ADAPTER_ERROR, Charge, Instruction, Outcome, Unavailable, Unknown
from gateway.providers import registry
from gateway.providers.base import Provider
from gateway.reasons import reason_of
from gateway.telemetry import PROVIDER_SECONDS, labelled, log_context, log_frequent

FIRST_WAVE_SECONDS = 0.1
"""Answers that are there by then are recorded at once, so that a slow call does not delay its neighbours."""
CROWDED_WAVE_SECONDS = 0.03
"""The same while most threads are busy: the next message shall get the threads that become free."""
IDLE_WAIT_SECONDS = 0.5
"""How long a message waits for its calls if the process has no others: the latency of a typical provider."""
ANSWER_MARGIN_SECONDS = 1
ROOM_SECONDS = 0.1
NOTES = 4
"""How many times per `stuck_after_seconds` the rows that find no room are marked as not stuck."""
CLOSE_MARGIN_SECONDS = 10

ClaimT = TypeVar("ClaimT", bound=AttemptClaim[Any])


@dataclass(slots=True)
class Handled:
    """What a list of transactions or refunds came to, by what its message has to do next."""

    completed: list[UUID] = field(default_factory=list)
    retry: list[UUID] = field(default_factory=list)
    busy: list[UUID] = field(default_factory=list)
    busy_seconds: int = field(default=0, compare=False)
    """When to come back to them; see `gateway.domain.payments.attempts.Claimed`."""
    alone: list[UUID] = field(default_factory=list)
    dead: list[UUID] = field(default_factory=list)
    """Out of attempts, or nonexistent: for the dead-letter queue."""
    waiting: list[UUID] = field(default_factory=list)
    """Their merchant has too many calls in progress here: nothing was claimed or attempted."""
    in_hand: list[UUID] = field(default_factory=list)
    """Their calls continue in the background. They are checked when the lease expires, in case this process dies."""

    @classmethod
    def before_the_calls(cls, claimed: Claimed[Any]) -> "Handled":
        """What claiming told of those that were not claimed."""
        dead = claimed.exhausted + claimed.nonexistent
        return cls(
            completed=claimed.completed,
            busy=claimed.busy,
            busy_seconds=claimed.busy_seconds,
            alone=claimed.interrupted,
            dead=dead,
            waiting=claimed.waiting,
        )

    def note(self, claim: AttemptClaim[Any], outcome: Outcome, recorded: Recorded | None) -> None:
        """Sort an instruction by what was recorded of it; None: another worker had finished it."""
        id = claim.instruction.id
        if recorded is not None and recorded.status == "completed":
            self.completed.append(id)
        elif recorded is not None and recorded.status != "failed":
            (self.dead if claim.last_attempt else self.retry).append(id)
        with _log_context(claim):
            status = recorded.status if recorded else "superseded"
            line = f"attempt {claim.instruction.attempt} by {claim.provider}: {outcome} -> {status}"
            log_frequent(__name__, line)


Follow = Callable[[Handled], None]
"""A callback for the results of calls that were answered after their message had been handled."""


@dataclass(frozen=True, slots=True)
class Recording(Generic[ClaimT]):
    """How outcomes are stored, and counted."""

    record: Callable[[Connection, Sequence[tuple[ClaimT, Outcome]]], Sequence[Recorded]]
    count: Callable[[Recorded], None]

    def into(self, handled: Handled, outcomes: Sequence[tuple[ClaimT, Outcome]]) -> Handled:
        """Store `outcomes`, and sort them into `handled`."""
        with db.autocommit() as connection:
            recorded = {row.id: row for row in self.record(connection, outcomes)}
        for claim, outcome in outcomes:
            handled.note(claim, outcome, recorded.get(claim.instruction.id))
        for row in recorded.values():
            self.count(row)
        return handled

    def store(self, outcomes: Sequence[tuple[ClaimT, Outcome]]) -> Handled:
        """Store `outcomes`; return them classified."""
        return self.into(Handled(), outcomes)


@cache
def _pool() -> CallPool:
    return CallPool(settings().provider_threads)


@cache
def _late_answers() -> LateAnswers:
    return LateAnswers()


def room() -> Room:
    """Return how many calls may start now."""
    return replace(_pool().room(), note_seconds=settings().stuck_after_seconds / NOTES)


def split_by_room(ids: Sequence[UUID]) -> tuple[Sequence[UUID], Sequence[UUID]]:
    """Split a list into the ids to claim now and the others.

    It waits up to `ROOM_SECONDS` for room, so that a full process does not requeue messages in a busy loop.
    """
    _pool().wait_for_room(len(ids), ROOM_SECONDS)
    return room().split(ids)


def close() -> None:
    """Finish the calls in progress before this process ends."""
    if _late_answers.cache_info().currsize:
        _late_answers().close(_limit_seconds() + CLOSE_MARGIN_SECONDS)
        _late_answers.cache_clear()


def carry_out(claimed: Claimed[ClaimT], recording: Recording[ClaimT], follow: Callable[[], Follow] | None) -> Handled:
    """Send the claimed instructions and store the outcomes, the quick ones first.

    Slow calls continue in the background: `follow` creates the callback for their results, which runs in another
    thread. Without it, the function waits for all calls.
    """
    handled = Handled.before_the_calls(claimed)
    if not claimed.claims:
        return handled
    was_idle = _pool().in_hand == 0
    first_wave_seconds = CROWDED_WAVE_SECONDS if _pool().is_crowded else FIRST_WAVE_SECONDS
    began = time.monotonic()
    calls = {_pool().start(claim.merchant_id, partial(ask_provider, claim)): claim for claim in claimed.claims}
    waiting = _record_answered(calls, first_wave_seconds, recording, handled)
    if waiting and was_idle and follow is not None:
        waiting = _record_answered(waiting, IDLE_WAIT_SECONDS - FIRST_WAVE_SECONDS, recording, handled)
    if not waiting:
        return handled
    if follow is None:
        if silent := _record_answered(waiting, _limit_seconds(), recording, handled):
            late = _abandon(list(silent))
            recording.into(handled, [(claim, late) for claim in silent.values()])
        return handled
    handled.in_hand = [claim.instruction.id for claim in waiting.values()]
    overdue_at, lease_until = began + _limit_seconds(), began + settings().claim_lease_seconds
    of_list: LateCallList[ClaimT] = LateCallList(recording.store, follow(), _abandon)
    late_calls = [LateCall(claim, call, overdue_at, lease_until, of_list) for call, claim in waiting.items()]
    _late_answers().take_over(late_calls)
    return handled


def _limit_seconds() -> float:
    return 2 * settings().provider_timeout_seconds + ANSWER_MARGIN_SECONDS


def _record_answered(
    calls: dict["Future[Outcome]", ClaimT], seconds: float, recording: Recording[ClaimT], handled: Handled
) -> dict["Future[Outcome]", ClaimT]:
    """Store the outcomes that arrive within `seconds`; return the other calls."""
    answered, waiting = wait(calls, timeout=seconds)
    if answered:
        recording.into(handled, [(calls[call], call.result()) for call in answered])
    return {call: claim for call, claim in calls.items() if call in waiting}


def _abandon(calls: Sequence["Future[Outcome]"]) -> Outcome:
    _pool().abandon(calls)
    return Unknown("provider_timeout", f"No answer within {_limit_seconds():g} s.")


def ask_provider(claim: AttemptClaim[Any]) -> Outcome:
    """The outcome of one attempt. A lost answer is followed by a status query before anything else."""
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
    except Exception as exc:  # noqa: BLE001  # an adapter that raises has told nothing about the money
        with _log_context(claim):
            logger.exception("the adapter of {} raised", claim.provider)
        outcome = Unknown(ADAPTER_ERROR, reason_of(exc))
    labelled(PROVIDER_SECONDS, claim.provider, type(outcome).__name__.lower()).observe(time.perf_counter() - started)
    return outcome


def _send(provider: Provider, instruction: Instruction) -> Outcome:
    return provider.charge(instruction) if isinstance(instruction, Charge) else provider.refund(instruction)


def _status(provider: Provider, instruction: Instruction) -> Outcome:
    return provider.status(instruction) if isinstance(instruction, Charge) else provider.refund_status(instruction)


def _log_context(claim: AttemptClaim[Any]) -> Any:
    subject = "transaction_id" if isinstance(claim.instruction, Charge) else "refund_id"
    return log_context(request_id=claim.request_id, **{subject: str(claim.instruction.id)})
