"""Reconciliations, on the `operations` queue: the nightly one, and those that operators request."""

from loguru import logger

from gateway.config import settings
from gateway.flows import reconciliation
from gateway.flows.reconciliation import ReconciliationRunning
from gateway.telemetry import log_context
from tasks import app
from tasks.base import GatewayTask, parse_ids

BUSY_PAUSE_SECONDS = 5
"""The interval at which a requested run checks whether the current one has ended."""
TIME_LIMIT_MARGIN_SECONDS = 60
"""PostgreSQL ends a comparison that takes too long; the task's time limits are for what PostgreSQL cannot end."""
_SOFT_LIMIT_SECONDS = settings().reconciliation_timeout_seconds + TIME_LIMIT_MARGIN_SECONDS
_LIMIT_SECONDS = _SOFT_LIMIT_SECONDS + TIME_LIMIT_MARGIN_SECONDS


@app.task(name="operations.reconcile", bind=True, soft_time_limit=_SOFT_LIMIT_SECONDS, time_limit=_LIMIT_SECONDS)
def reconcile(self: GatewayTask) -> None:
    """Compare everything up to now, unless another run, which covers the same, is in progress."""
    with log_context(task_id=self.request.id):
        try:
            reconciliation.reconcile()
        except ReconciliationRunning as exc:
            logger.info("{}", exc)


@app.task(
    name="operations.reconcile_as_requested",
    bind=True,
    soft_time_limit=_SOFT_LIMIT_SECONDS,
    time_limit=_LIMIT_SECONDS,
)
def reconcile_as_requested(self: GatewayTask, ids: object) -> None:
    """Carry out a run that an operator requested; while another one is in progress, try again after a pause."""
    parsed = parse_ids(ids)
    if len(parsed) > 1:
        self.split(parsed, "the time limit is for a single reconciliation")
        return
    with log_context(task_id=self.request.id):
        try:
            reconciliation.reconcile_as_requested(parsed[0])
        except ReconciliationRunning:
            self.republish(parsed, retries=0, countdown=BUSY_PAUSE_SECONDS)
