"""Operators' work that stands still because its message was lost, or its worker died: enqueued again by the sweep."""

from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain.dead_letters import bulk_jobs
from gateway.domain.reconciliation import requests as reconciliation_requests

WAITING_SECONDS = 60
"""Work that waited so long may have lost its message; enqueuing it twice does no harm."""
RUN_MARGIN_SECONDS = 120
"""How much longer than a reconciliation may take its worker is given before it counts as dead."""
BATCH = 100


def resume() -> int:
    """Enqueue again what stands still; how much that was."""
    with db.begin() as connection:
        resumed = bulk_jobs.enqueue_stale(connection, WAITING_SECONDS, BATCH)
        resumed += reconciliation_requests.enqueue_stale(
            connection,
            pending_seconds=WAITING_SECONDS,
            running_seconds=settings().reconciliation_timeout_seconds + RUN_MARGIN_SECONDS,
            limit=BATCH,
        )
    if resumed:
        logger.warning("{} jobs and reconciliations of operators stood still; enqueued again", resumed)
    return resumed
