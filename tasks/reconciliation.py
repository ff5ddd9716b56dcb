"""The nightly reconciliation, on the `operations` queue."""

from loguru import logger

from gateway.config import settings
from gateway.domain.reconciliation import ReconciliationRunning
from gateway.flows import reconciliation
from gateway.telemetry import log_context
from tasks import app
from tasks.base import TRANSIENT, GatewayTask

TIME_LIMIT_MARGIN_SECONDS = 60
"""PostgreSQL ends a comparison that takes too long; the worker's own limit is for what PostgreSQL cannot end."""
_SOFT_LIMIT_SECONDS = settings().reconciliation_timeout_seconds + TIME_LIMIT_MARGIN_SECONDS


@app.task(
    name="operations.reconcile",
    base=GatewayTask,
    bind=True,
    autoretry_for=TRANSIENT,
    max_retries=3,
    soft_time_limit=_SOFT_LIMIT_SECONDS,
    time_limit=_SOFT_LIMIT_SECONDS + TIME_LIMIT_MARGIN_SECONDS,
)
def reconcile(self: GatewayTask) -> None:
    """Compare everything up to now; a run that is under way already does it for this one."""
    with log_context(task_id=self.request.id):
        try:
            reconciliation.reconcile()
        except ReconciliationRunning as exc:
            logger.info("{}", exc)
