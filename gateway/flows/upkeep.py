"""The sweep: work that stands still is enqueued again, rows that are kept no longer are purged."""

from dataclasses import dataclass

from gateway import db
from gateway.config import settings
from gateway.domain import alerts, housekeeping, outbox, rate_limits, rescue
from gateway.domain.ids import utc_now
from gateway.domain.rescue import Kind
from gateway.telemetry import RESCUED

BATCH = 1_000
BATCHES_MAX = 50
OUTBOX_LAG_ALERT_SECONDS = 60
ALERT_PAUSE_SECONDS = 600
ALERT_IDS_MAX = 20


@dataclass(frozen=True, slots=True)
class Swept:
    """How much one sweep did."""

    rescued: int
    purged: int


def sweep() -> Swept:
    """One sweep, in bounded batches of one commit each; two sweeps at once do each row once."""
    rescued = sum(_rescue_stuck(kind) for kind in rescue.KINDS)
    RESCUED.labels("sweep").inc(rescued)
    alert_lagging_outbox()
    with db.begin() as connection:
        purged = housekeeping.purge(connection, BATCH)
    with db.autocommit() as connection:  # on its own: no lease waits for the rest
        purged += rate_limits.purge(connection, BATCH)
    return Swept(rescued, purged)


def _rescue_stuck(kind: Kind) -> int:
    rescued = 0
    for _ in range(BATCHES_MAX):
        with db.begin() as connection:
            stuck = rescue.stuck(connection, kind, settings().stuck_after_seconds, BATCH)
            ids = rescue.enqueue_again(connection, kind, stuck)
            if ids:
                details = {"count": len(ids), f"{kind.table[:-1]}_ids": [str(id) for id in ids[:ALERT_IDS_MAX]]}
                message = f"{len(ids)} {kind.table} stood still; enqueued again"
                alerts.raise_alert(connection, "warning", message, details)
        rescued += len(ids)
        if len(ids) < BATCH:
            break
    return rescued


def alert_lagging_outbox() -> None:
    """Tell, at most every `ALERT_PAUSE_SECONDS`, that messages wait: no relay runs, or the broker takes none.

    The sweep asks this in case that the relay is gone, the relay in case that the broker is, and with it the sweep.
    """
    with db.begin() as connection:
        waiting, oldest = outbox.backlog(connection)
        lag = (utc_now() - oldest).total_seconds() if oldest else 0.0
        if lag > OUTBOX_LAG_ALERT_SECONDS and not alerts.raised_within(connection, ALERT_PAUSE_SECONDS, "outbox_lag"):
            alerts.raise_alert(
                connection,
                "critical",
                f"{waiting} messages wait in the outbox, the oldest for {lag:.0f} s; check the relay and the broker",
                {"kind": "outbox_lag", "count": waiting, "oldest_seconds": round(lag)},
            )
