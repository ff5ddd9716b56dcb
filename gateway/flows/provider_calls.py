"""Sending claimed instructions to their providers: concurrently, bounded in time, with no database connection held."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from loguru import logger
from sqlalchemy import Connection

from gateway import db
from gateway.config import settings
from gateway.domain.attempts import Claim, Claimed, Recorded
from gateway.outcomes import ADAPTER_ERROR, Charge, Instruction, Outcome, Unavailable, Unknown
from gateway.providers import registry
from gateway.providers.base import Provider
from gateway.reasons import reason_of
from gateway.telemetry import PROVIDER_SECONDS, labelled, log_context, log_frequent

FIRST_WAVE_SECONDS = 0.1
"""Answers that are there by then are recorded at once, so that a slow call does not delay its neighbours."""
ANSWER_MARGIN_SECONDS = 1

ClaimT = TypeVar("ClaimT", bound=Claim[Any])


@dataclass(slots=True)
class Handled:
    """What a list of transactions or refunds came to, by what its message has to do next."""

    completed: list[UUID] = field(default_factory=list)
    retry: list[UUID] = field(default_factory=list)
    busy: list[UUID] = field(default_factory=list)
    busy_seconds: int = field(default=0, compare=False)
    """When to come back to them; see `gateway.domain.attempts.Claimed`."""
    alone: list[UUID] = field(default_factory=list)
    dead: list[UUID] = field(default_factory=list)
    """Out of attempts, or nonexistent: for the dead-letter queue."""

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
        )

    def note(self, claim: Claim[Any], outcome: Outcome, recorded: Recorded | None) -> None:
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


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(settings().provider_threads, thread_name_prefix="provider")


def carry_out(
    claimed: Claimed[ClaimT],
    record: Callable[[Connection, Sequence[tuple[ClaimT, Outcome]]], Sequence[Recorded]],
    count: Callable[[Recorded], None],
) -> Handled:
    """Send what was claimed, have `record` store the outcomes, and `count` what each came to."""
    handled = Handled.before_the_calls(claimed)

    def store(outcomes: Sequence[tuple[ClaimT, Outcome]]) -> None:
        with db.autocommit() as connection:
            recorded = {row.id: row for row in record(connection, outcomes)}
        for claim, outcome in outcomes:
            handled.note(claim, outcome, recorded.get(claim.instruction.id))
        for row in recorded.values():
            count(row)

    _call(claimed.claims, store)
    return handled


def _call(claims: Sequence[ClaimT], store: Callable[[Sequence[tuple[ClaimT, Outcome]]], None]) -> None:
    """Send every claimed instruction, and have the outcomes stored: the quick ones first, then the others."""
    if not claims:
        return
    calls: dict[Future[Outcome], ClaimT] = {_threads().submit(ask_provider, claim): claim for claim in claims}
    answered, waiting = wait(calls, timeout=FIRST_WAVE_SECONDS)
    if answered:
        store([(calls[call], call.result()) for call in answered])
    if waiting:
        limit = 2 * settings().provider_timeout_seconds + ANSWER_MARGIN_SECONDS
        answered, silent = wait(waiting, timeout=limit)
        if silent:
            _threads.cache_clear()  # a call that never returns keeps its thread, but not the next payment's
        for call in silent:
            call.cancel()  # one that still waits for a thread must not move money after its lease
        late = Unknown("provider_timeout", f"No answer within {limit} s.")
        store([(calls[call], call.result()) for call in answered] + [(calls[call], late) for call in silent])


def ask_provider(claim: Claim[Any]) -> Outcome:
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


def _log_context(claim: Claim[Any]) -> Any:
    subject = "transaction_id" if isinstance(claim.instruction, Charge) else "refund_id"
    return log_context(request_id=claim.request_id, **{subject: str(claim.instruction.id)})
