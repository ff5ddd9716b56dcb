"""One check of the invariants: read on one snapshot, then record."""

from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain.invariants import checks as invariant_checks
from gateway.domain.invariants.checks import Report

RECENT_LIMIT_SECONDS = 30
FULL_LIMIT_SECONDS = 1_800
PATIENCE_SWEEPS = 1.5
"""The sweep had a chance at what this many of its intervals ago stood still already."""


def horizon_seconds() -> int:
    """The longest that an unfinished transaction may stand still before a sweep must have enqueued it again.

    It is stuck after `STUCK_AFTER_SECONDS`, but a worker's lease may only now have ended, and the next sweep may be
    missed once.
    """
    config = settings()
    return config.stuck_after_seconds + 2 * config.sweep_interval_seconds + config.claim_lease_seconds


def check(*, full: bool = False) -> Report:
    """Check every invariant, keep what was found, and alert about what is broken.

    A recent check covers what can have changed since the last one, and whatever that one found to be broken. A full
    one reads everything; what it finds is watched by the recent ones until it is repaired.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the check could not be made; see `db.UNAVAILABLE`.
    """
    with db.begin() as connection:
        report = invariant_checks.evaluate(
            connection,
            full=full,
            horizon_seconds=horizon_seconds(),
            limit_seconds=FULL_LIMIT_SECONDS if full else RECENT_LIMIT_SECONDS,
        )
    with db.begin() as connection:
        invariant_checks.record(
            connection, report, patience_seconds=PATIENCE_SWEEPS * settings().sweep_interval_seconds
        )
    if report.missed:
        logger.warning(
            "the last check of the invariants was too long ago: {} before {} are not covered; run flask invariants",
            report.missed,
            report.since,
        )
    for result in report.broken:
        logger.error("invariant broken: {}, {} times", result.invariant.name, result.violations)
    return report
