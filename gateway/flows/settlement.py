"""Settling a list of transactions: claim (commit), call the providers concurrently, record (commit)."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cache
from uuid import UUID

from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain import settlements
from gateway.domain.settlements import Claim
from gateway.outcomes import Outcome, Unavailable, Unknown
from gateway.providers import registry
from gateway.states import TransactionStatus
from gateway.telemetry import PROCESSING_SECONDS, PROVIDER_SECONDS, SETTLEMENTS, log_context

FIRST_WAVE_SECONDS = 0.1
"""Answers that are there by then are recorded at once, so that a slow call does not delay its neighbours."""
ANSWER_MARGIN_SECONDS = 1


@dataclass(slots=True)
class Settled:
    """What a list of transactions came to, by what its message has to do next."""

    completed: list[UUID] = field(default_factory=list)
    retry: list[UUID] = field(default_factory=list)
    busy: list[UUID] = field(default_factory=list)
    alone: list[UUID] = field(default_factory=list)
    dead: list[UUID] = field(default_factory=list)
    """Out of attempts, or without a transaction: for the dead-letter queue."""


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(settings().provider_threads, thread_name_prefix="provider")


def settle(ids: Sequence[UUID], task_id: str) -> Settled:
    """Charge each of `ids` that may be charged, and record the outcomes."""
    with db.autocommit() as connection:
        claimed = settlements.claim(connection, ids, task_id, settings().claim_lease_seconds)
    result = Settled(
        completed=claimed.completed,
        busy=claimed.busy,
        alone=claimed.interrupted,
        dead=claimed.exhausted + claimed.nonexistent,
    )
    if claimed.claims:
        _call_and_record(claimed.claims, result)
    return result


def _call_and_record(claims: Sequence[Claim], result: Settled) -> None:
    calls: dict[Future[Outcome], Claim] = {_threads().submit(_ask_provider, claim): claim for claim in claims}
    answered, waiting = wait(calls, timeout=FIRST_WAVE_SECONDS)
    if answered:
        _record([(calls[call], call.result()) for call in answered], result)
    if waiting:
        limit = 2 * settings().provider_timeout_seconds + ANSWER_MARGIN_SECONDS
        answered, silent = wait(waiting, timeout=limit)
        if silent:
            _threads.cache_clear()  # a call that never returns keeps its thread, but not the next payment's
        for call in silent:
            call.cancel()  # one that still waits for a thread must not charge after its lease
        late = Unknown("provider_timeout", f"No answer within {limit} s.")
        outcomes = [(calls[call], call.result()) for call in answered] + [(calls[call], late) for call in silent]
        _record(outcomes, result)


def _ask_provider(claim: Claim) -> Outcome:
    """The outcome of one attempt. A lost answer is followed by a status query before anything else."""
    started = time.perf_counter()
    try:
        provider = registry.provider(claim.provider)
        if claim.in_doubt:
            known = provider.status(replace(claim.charge, attempt=claim.charge.attempt - 1))
            if not isinstance(known, Unavailable):
                return known
        outcome = provider.charge(claim.charge)
        if isinstance(outcome, Unknown):
            outcome = provider.status(claim.charge)
    except Exception as exc:  # noqa: BLE001  # an adapter that raises has told nothing about the charge
        with log_context(request_id=claim.request_id, transaction_id=str(claim.charge.transaction_id)):
            logger.exception("the adapter of {} raised", claim.provider)
        outcome = Unknown("adapter_error", f"{type(exc).__name__}: {exc}")
    PROVIDER_SECONDS.labels(claim.provider, type(outcome).__name__.lower()).observe(time.perf_counter() - started)
    return outcome


def _record(outcomes: Sequence[tuple[Claim, Outcome]], result: Settled) -> None:
    with db.autocommit() as connection:
        recorded = {row.transaction_id: row for row in settlements.record(connection, outcomes)}
    for claim, outcome in outcomes:
        id = claim.charge.transaction_id
        row = recorded.get(id)
        if row is None:
            _log(claim, outcome, "superseded")
            continue
        if row.status == TransactionStatus.COMPLETED:
            result.completed.append(id)
            SETTLEMENTS.labels("succeeded").inc()
            PROCESSING_SECONDS.observe(row.seconds)
        elif row.status == TransactionStatus.FAILED:
            SETTLEMENTS.labels("failed").inc()
        elif claim.last_attempt:
            result.dead.append(id)
        else:
            result.retry.append(id)
        _log(claim, outcome, row.status)


def _log(claim: Claim, outcome: Outcome, status: str) -> None:
    with log_context(request_id=claim.request_id, transaction_id=str(claim.charge.transaction_id)):
        logger.info("attempt {} by {}: {} -> {}", claim.charge.attempt, claim.provider, outcome, status)
