"""Check the invariants on one snapshot, then record the results."""

from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain.invariants import checks as invariant_checks
from gateway.domain.invariants.checks import Report

RECENT_LIMIT_SECONDS = 30
FULL_LIMIT_SECONDS = 1_800
GRACE_SWEEPS = 1.5
"""Number of sweep intervals in which a sweep has certainly requeued what was overdue at their beginning."""


def horizon_seconds() -> int:
    """Return the time without progress after which a sweep must have requeued an unfinished transaction.

    The transaction is stuck after `STUCK_AFTER_SECONDS`, plus the lease of a worker. One sweep may be missed.
    """
    config = settings()
    return config.stuck_after_seconds + 2 * config.sweep_interval_seconds + config.claim_lease_seconds


def check(*, full: bool = False) -> Report:
    """Check every invariant, store the results, and raise alerts; return the report.

    A recent check covers what can have changed since the last check, and the offending rows of the last check. A full
    check reads everything. The recent checks watch its findings until they are repaired.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the check failed; see `db.UNAVAILABLE`.
    """
    with db.begin() as connection:
        report = invariant_checks.evaluate(
            connection,
            full=full,
            horizon_seconds=horizon_seconds(),
            limit_seconds=FULL_LIMIT_SECONDS if full else RECENT_LIMIT_SECONDS,
        )
    with db.begin() as connection:
        invariant_checks.record(connection, report, grace_seconds=GRACE_SWEEPS * settings().sweep_interval_seconds)
    if report.missed:
        logger.warning(
            "the last check of the invariants was too long ago: {} before {} are not covered; run flask invariants",
            report.missed,
            report.since,
        )
    for result in report.broken:
        logger.error("invariant broken: {}, {} times", result.invariant.name, result.violations)
    return report
