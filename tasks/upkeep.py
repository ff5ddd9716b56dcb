"""Scheduled upkeep, on the `operations` queue.

Tasks without retries leave their work to the next scheduled run.
"""

from loguru import logger

from gateway.flows import DATABASE_UNAVAILABLE, alerts, balances, invariants, upkeep
from gateway.reasons import reason_of
from tasks import app


@app.task(name="operations.sweep")
def sweep() -> None:
    """Requeue stuck work, purge old rows, and deliver overdue alerts."""
    result = upkeep.sweep()
    upkeep.requeue_operator_work()
    alerts.deliver_overdue()
    logger.info("sweep: {} requeued, {} old rows purged", result.requeued, result.purged)


@app.task(
    name="operations.check_invariants",
    max_retries=0,
    soft_time_limit=2 * invariants.RECENT_LIMIT_SECONDS,
    time_limit=3 * invariants.RECENT_LIMIT_SECONDS,
)
def check_invariants() -> None:
    """Check the invariants on everything that can have changed since the last check."""
    try:
        invariants.check()
    except DATABASE_UNAVAILABLE as exc:
        logger.warning("the invariants could not be checked: {}", reason_of(exc))


@app.task(name="operations.fold_balances", max_retries=0)
def fold_balances() -> None:
    """Add the balance changes of new postings to the balances."""
    try:
        balances.fold()
    except DATABASE_UNAVAILABLE as exc:
        logger.warning("the balances could not be folded: {}", reason_of(exc))


@app.task(
    name="operations.check_balances",
    soft_time_limit=balances.CHECK_SECONDS + 60,
    time_limit=balances.CHECK_SECONDS + 120,
)
def check_balances() -> None:
    """Compare every balance with the whole ledger."""
    balances.check()
