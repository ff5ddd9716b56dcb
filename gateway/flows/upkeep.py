"""The sweep: work that stands still is enqueued again, rows that are kept no longer are purged."""

from dataclasses import dataclass
from functools import partial

from gateway import db
from gateway.config import settings
from gateway.domain.merchants import rate_limits
from gateway.domain.operations import queue_states, retention
from gateway.domain.payments import requeueing
from gateway.domain.payments.requeueing import Kind
from gateway.domain.shared import alerts, outbox
from gateway.domain.shared.alerts import IDS_MAX
from gateway.flows.batches import in_batches
from gateway.ids import utc_now
from gateway.telemetry import REQUEUED

OUTBOX_LAG_ALERT_SECONDS = 60
ALERT_PAUSE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Swept:
    """How much one sweep did."""

    requeued: int
    purged: int


def sweep() -> Swept:
    """One sweep, in bounded batches of one commit each; two sweeps at once do each row once."""
    requeued = sum(in_batches(partial(_requeue_stuck, kind)) for kind in requeueing.KINDS)
    REQUEUED.labels("sweep").inc(requeued)
    alert_lagging_outbox()
    return Swept(requeued, in_batches(_purge) + in_batches(_purge_rate_limits))


def _requeue_stuck(kind: Kind, limit: int) -> int:
    with db.begin() as connection:
        stuck = requeueing.stuck(connection, kind, settings().stuck_after_seconds, limit)
        ids = requeueing.enqueue_again(connection, kind, stuck)
        if ids:
            details = {"count": len(ids), f"{kind.table[:-1]}_ids": [str(id) for id in ids[:IDS_MAX]]}
            message = f"{len(ids)} {kind.table} stood still; enqueued again"
            alerts.raise_alert(connection, "warning", message, details)
    return len(ids)


def _purge(limit: int) -> int:
    with db.begin() as connection:
        return retention.purge(connection, limit)


def _purge_rate_limits(limit: int) -> int:
    with db.autocommit() as connection:  # on its own: no lease waits for the rest
        return rate_limits.purge(connection, limit)


def alert_lagging_outbox() -> None:
    """Tell, at most every `ALERT_PAUSE_SECONDS`, that messages wait: no relay runs, or the broker takes none.

    The sweep asks this in case that the relay is gone, the relay in case that the broker is, and with it the sweep.
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
