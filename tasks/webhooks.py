"""Handing webhook endpoints to the deliveries of a `worker-webhooks` process."""

from loguru import logger

from tasks import app
from tasks.base import TRANSIENT, GatewayTask, parse_ids


@app.task(name="webhooks.deliver", base=GatewayTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def deliver(_self: GatewayTask, ids: object) -> None:
    """See to the due deliveries of these endpoints."""
    logger.debug("{} endpoints have deliveries", len(parse_ids(ids)))
