"""Scheduled upkeep on the `operations` queue."""

from loguru import logger

from gateway import db
from gateway.flows import alerts, balances, invariants, upkeep
from gateway.reasons import reason_of
from tasks import app
from tasks.base import TRANSIENT, GatewayTask


@app.task(name="operations.sweep", base=GatewayTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def sweep(_self: GatewayTask) -> None:
    """Enqueue again what stands still, purge what is kept no longer, deliver alerts that nobody delivered."""
    result = upkeep.sweep()
    upkeep.requeue_operator_work()
    alerts.deliver_overdue()
    logger.info("sweep: {} enqueued again, {} old rows purged", result.requeued, result.purged)


@app.task(
    name="operations.check_invariants",
    base=GatewayTask,
    bind=True,
    max_retries=0,
    soft_time_limit=2 * invariants.RECENT_LIMIT_SECONDS,
    time_limit=3 * invariants.RECENT_LIMIT_SECONDS,
)
def check_invariants(_self: GatewayTask) -> None:
    """Check what can have changed since the last check; the next run does what one left that could not be made."""
    try:
        invariants.check()
    except db.UNAVAILABLE as exc:
        logger.warning("the invariants could not be checked: {}", reason_of(exc))


@app.task(name="operations.fold_balances", base=GatewayTask, bind=True, max_retries=0)
def fold_balances(_self: GatewayTask) -> None:
    """Fold what postings changed into the balances; the next run does what one left that could not."""
    try:
        balances.fold()
    except db.UNAVAILABLE as exc:
        logger.warning("the balances could not be folded: {}", reason_of(exc))


@app.task(
    name="operations.check_balances",
    base=GatewayTask,
    bind=True,
    autoretry_for=TRANSIENT,
    max_retries=3,
    soft_time_limit=balances.CHECK_SECONDS + 60,
    time_limit=balances.CHECK_SECONDS + 120,
)
def check_balances(_self: GatewayTask) -> None:
    """Compare every balance with the whole ledger."""
    balances.check()
