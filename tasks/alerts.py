"""Deliver alerts, on the `operations` queue."""

from loguru import logger

from gateway.config import settings
from gateway.flows import alerts
from gateway.flows.alerts import AlertNotDelivered
from gateway.telemetry import log_context
from tasks import app
from tasks.base import GatewayTask, parse_ids

_GROUPS = -(-settings().message_max_ids // alerts.CONCURRENT_CALLS_MAX)
_SOFT_LIMIT_SECONDS = _GROUPS * settings().alert_timeout_seconds + 3 * settings().database_timeout_seconds
TIME_LIMIT_MARGIN_SECONDS = 20


@app.task(
    name="operations.deliver_alerts",
    bind=True,
    soft_time_limit=_SOFT_LIMIT_SECONDS,
    time_limit=_SOFT_LIMIT_SECONDS + TIME_LIMIT_MARGIN_SECONDS,
)
def deliver_alerts(self: GatewayTask, ids: object) -> None:
    """Deliver alerts; retry those that were not delivered, after a delay and at most `max_retries` times."""
    parsed = parse_ids(ids)
    with log_context(task_id=self.request.id):
        undelivered = alerts.deliver(parsed)
        if not undelivered:
            return
        if self.request.retries >= self.max_retries:
            logger.warning("{} alerts wait for the sweep to enqueue them again", len(undelivered))
            return
        error = AlertNotDelivered(f"{len(undelivered)} alerts were not delivered")
        raise self.retry(args=([str(id) for id in undelivered],), exc=error)
