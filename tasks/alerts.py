"""Delivering alerts, on the `operations` queue."""

from loguru import logger

from gateway.config import settings
from gateway.flows import alerts
from gateway.flows.alerts import AlertNotDelivered
from gateway.telemetry import log_context
from tasks import app
from tasks.base import TRANSIENT, GatewayTask, parse_ids

_GROUPS = -(-settings().message_max_ids // alerts.CALLS_AT_ONCE)
_SOFT_LIMIT_SECONDS = _GROUPS * settings().alert_timeout_seconds + 3 * settings().database_timeout_seconds
TIME_LIMIT_MARGIN_SECONDS = 20


@app.task(
    name="operations.deliver_alerts",
    base=GatewayTask,
    bind=True,
    autoretry_for=TRANSIENT,
    max_retries=3,
    soft_time_limit=_SOFT_LIMIT_SECONDS,
    time_limit=_SOFT_LIMIT_SECONDS + TIME_LIMIT_MARGIN_SECONDS,
)
def deliver_alerts(self: GatewayTask, ids: object) -> None:
    """Deliver alerts; those that were not taken travel on alone, after a delay, a bounded number of times."""
    parsed = parse_ids(ids)
    with log_context(task_id=self.request.id):
        again = alerts.deliver(parsed)
        if not again:
            return
        if self.request.retries >= self.max_retries:
            logger.warning("{} alerts wait for the sweep to enqueue them again", len(again))
            return
        error = AlertNotDelivered(f"{len(again)} alerts were not taken")
        raise self.retry(args=([str(id) for id in again],), exc=error)
