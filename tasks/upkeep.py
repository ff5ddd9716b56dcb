"""Scheduled upkeep on the `operations` queue."""

from loguru import logger

from gateway.flows import upkeep
from tasks import app
from tasks.base import TRANSIENT, GatewayTask


@app.task(name="operations.sweep", base=GatewayTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def sweep(_self: GatewayTask) -> None:
    """Enqueue again what stands still, and purge what is kept no longer."""
    result = upkeep.sweep()
    logger.info("sweep: {} enqueued again, {} old rows purged", result.rescued, result.purged)
