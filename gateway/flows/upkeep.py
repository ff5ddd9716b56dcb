"""The sweep: requeue work that makes no progress, and purge old rows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain.dead_letters import bulk_jobs
from gateway.domain.merchants import rate_limits
from gateway.domain.operations import queue_states, retention
from gateway.domain.payments import requeueing
from gateway.domain.payments.kinds import KINDS, Kind
from gateway.domain.reconciliation import requests as reconciliation_requests
from gateway.domain.shared import alerts, outbox
from gateway.domain.shared.alerts import IDS_MAX
from gateway.ids import utc_now
from gateway.telemetry import REQUEUED

BATCH = 1_000
BATCHES_MAX = 50
"""Maximum number of batches of one scheduled run; the next run continues."""
OUTBOX_LAG_ALERT_SECONDS = 60
ALERT_PAUSE_SECONDS = 600
MESSAGE_LOST_SECONDS = 60
"""The message of work that has waited this long may be lost. Enqueuing the work twice does no harm."""
RUN_MARGIN_SECONDS = 120
"""A reconciliation that exceeds its timeout by this time is considered dead."""
OPERATOR_WORK_BATCH = 100


@dataclass(frozen=True, slots=True)
class Swept:
    """The numbers of requeued objects and of purged rows of one sweep."""

    requeued: int
    purged: int


def in_batches(step: Callable[[int], int]) -> int:
    """Repeat `step` until it handles fewer than `BATCH` rows; return the sum. Each step is one commit.

    `step` takes the maximum number of rows, and returns the number that it handled. No lock is held for long.
    """
    done = 0
    for _ in range(BATCHES_MAX):
        batch = step(BATCH)
        done += batch
        if batch < BATCH:
            break
    return done


def sweep() -> Swept:
    """Requeue what is stuck and purge old rows, in batches. Concurrent sweeps handle each row once."""
    requeued = sum(in_batches(partial(_requeue_stuck, kind)) for kind in KINDS)
    REQUEUED.labels("sweep").inc(requeued)
    alert_lagging_outbox()
    return Swept(requeued, in_batches(_purge) + in_batches(_purge_rate_limits))


def _requeue_stuck(kind: Kind, limit: int) -> int:
    with db.begin() as connection:
        stuck = requeueing.stuck(connection, kind, settings().stuck_after_seconds, limit)
        ids = requeueing.requeue(connection, kind, stuck)
        if ids:
            details = {"count": len(ids), f"{kind.table[:-1]}_ids": [str(id) for id in ids[:IDS_MAX]]}
            alerts.raise_alert(connection, "warning", f"{len(ids)} {kind.table} were stuck and were requeued", details)
    return len(ids)


def _purge(limit: int) -> int:
    with db.begin() as connection:
        return retention.purge(connection, limit)


def _purge_rate_limits(limit: int) -> int:
    with db.autocommit() as connection:  # separately, so that no lease waits for the rest
        return rate_limits.purge(connection, limit)


def requeue_operator_work() -> int:
    """Requeue jobs and reconciliations whose message was lost or whose worker died; return their number."""
    with db.begin() as connection:
        requeued = bulk_jobs.enqueue_stale(connection, MESSAGE_LOST_SECONDS, OPERATOR_WORK_BATCH)
        requeued += reconciliation_requests.enqueue_stale(
            connection,
            pending_seconds=MESSAGE_LOST_SECONDS,
            running_seconds=settings().reconciliation_timeout_seconds + RUN_MARGIN_SECONDS,
            limit=OPERATOR_WORK_BATCH,
        )
    if requeued:
        logger.warning("{} jobs and reconciliations of operators were stuck and were requeued", requeued)
    return requeued


def alert_lagging_outbox() -> None:
    """Raise an alert, at most every `ALERT_PAUSE_SECONDS`, if messages wait for too long in the outbox.

    The sweep calls this in case the relay does not run, and the relay in case the broker is unavailable, so that no
    sweep runs.
    """
    with db.begin() as connection:
        waiting, oldest = outbox.backlog(connection)
        lag = (utc_now() - oldest).total_seconds() if oldest else 0.0
        if lag <= OUTBOX_LAG_ALERT_SECONDS:
            return
        problem = queue_states.publishing_problem(connection)
        cause = problem or "check the relay and the broker"
        alerts.raise_once(
            connection,
            ALERT_PAUSE_SECONDS,
            "critical",
            f"{waiting} messages wait in the outbox, the oldest for {lag:.0f} s; {cause}",
            {"kind": "outbox_lag", "count": waiting, "oldest_seconds": round(lag), "reason": problem},
        )
