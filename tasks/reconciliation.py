"""Reconciliations on the `operations` queue: the nightly one, and those that operators ask for."""

from loguru import logger

from gateway.config import settings
from gateway.domain.reconciliation.runs import ReconciliationRunning
from gateway.flows import reconciliation
from gateway.telemetry import log_context
from tasks import app
from tasks.base import TRANSIENT, GatewayTask, parse_ids

BUSY_PAUSE_SECONDS = 5
"""How soon a run that was asked for looks again whether the one under way has ended."""
TIME_LIMIT_MARGIN_SECONDS = 60
"""PostgreSQL ends a comparison that takes too long; the worker's own limit is for what PostgreSQL cannot end."""
_SOFT_LIMIT_SECONDS = settings().reconciliation_timeout_seconds + TIME_LIMIT_MARGIN_SECONDS
_LIMIT_SECONDS = _SOFT_LIMIT_SECONDS + TIME_LIMIT_MARGIN_SECONDS


@app.task(
    name="operations.reconcile",
    base=GatewayTask,
    bind=True,
    autoretry_for=TRANSIENT,
    max_retries=3,
    soft_time_limit=_SOFT_LIMIT_SECONDS,
    time_limit=_LIMIT_SECONDS,
)
def reconcile(self: GatewayTask) -> None:
    """Compare everything up to now; a run that is under way already does it for this one."""
    with log_context(task_id=self.request.id):
        try:
            reconciliation.reconcile()
        except ReconciliationRunning as exc:
            logger.info("{}", exc)


@app.task(
    name="operations.reconcile_as_requested",
    base=GatewayTask,
    bind=True,
    autoretry_for=TRANSIENT,
    max_retries=3,
    soft_time_limit=_SOFT_LIMIT_SECONDS,
    time_limit=_LIMIT_SECONDS,
)
def reconcile_as_requested(self: GatewayTask, ids: object) -> None:
    """Carry out a run that an operator asked for. It is looked at again until the one under way has ended."""
    parsed = parse_ids(ids)
    if len(parsed) > 1:
        self.take_apart(parsed, "each reconciliation has the time limit to itself")
        return
    with log_context(task_id=self.request.id):
        try:
            reconciliation.reconcile_as_requested(parsed[0])
        except ReconciliationRunning:
            self.send_on(parsed, retries=0, countdown=BUSY_PAUSE_SECONDS)
