"""Run a reconciliation from beginning to end."""

from datetime import datetime
from uuid import UUID

from loguru import logger
from psycopg.errors import QueryCanceled
from sqlalchemy.exc import OperationalError

from gateway import db
from gateway.config import settings
from gateway.domain.reconciliation import runs as reconciliation_runs
from gateway.domain.reconciliation.runs import ReconciliationRunning, Run
from gateway.errors import PermanentError
from gateway.reasons import reason_of

__all__ = ["ReconciliationCanceled", "ReconciliationRunning", "reconcile", "reconcile_as_requested"]


class ReconciliationCanceled(PermanentError):
    """PostgreSQL canceled the reconciliation."""

    code = "reconciliation_canceled"
    remedy = "Raise RECONCILIATION_TIMEOUT_SECONDS, or choose a shorter period."


def reconcile(period_from: datetime | None = None, period_to: datetime | None = None) -> Run:
    """Compare everything that completed or settled in the period; log and return the result.

    By default, and every night, the period is everything until now. Beat does not catch up after an outage, so a run
    must also cover what a missed run left. A payment whose commit was later than its completion time would be in
    neither of two adjacent periods. Besides, rows that agreed yesterday may disagree today.

    Raises:
        ReconciliationRunning: another one is running.
        ReconciliationCanceled: it took longer than `RECONCILIATION_TIMEOUT_SECONDS`; nothing is stored.
        ValidationFailed: the period ends before it begins.
    """
    with db.begin() as connection:
        run_id = reconciliation_runs.open_run(connection, period_from, period_to)
    try:
        return _compare(run_id)
    except Exception as exc:
        _close(run_id, exc)
        raise


def reconcile_as_requested(run_id: UUID) -> None:
    """Carry out a run that an operator requested. A run that has ended is not changed.

    If the database becomes unavailable, the run is not changed either: the retried task begins it again.

    Raises:
        ReconciliationRunning: another one is running; this one is pending again.
    """
    with db.begin() as connection:
        if not reconciliation_runs.start(connection, run_id):
            return
    try:
        _compare(run_id)
    except ReconciliationRunning:
        with db.begin() as connection:
            reconciliation_runs.postpone(connection, run_id)
        raise
    except ReconciliationCanceled as exc:
        _close(run_id, exc)


def _compare(run_id: UUID) -> Run:
    limit = settings().reconciliation_timeout_seconds
    try:
        with db.answer_timeout(limit + db.ANSWER_MARGIN_SECONDS), db.begin() as connection:
            run = reconciliation_runs.carry_out(
                connection, run_id, stuck_after_seconds=settings().stuck_after_seconds, timeout_seconds=limit
            )
    except OperationalError as exc:
        if isinstance(exc.orig, QueryCanceled):
            raise ReconciliationCanceled(
                f"PostgreSQL ended the reconciliation (RECONCILIATION_TIMEOUT_SECONDS is {limit}): {exc.orig}"
            ) from exc
        raise
    _log(run)
    return run


def _close(run_id: UUID, exc: Exception) -> None:
    cause = exc.__cause__ if isinstance(exc, ReconciliationCanceled) else exc
    reason = str(getattr(cause, "orig", None) or exc).partition("\n")[0] or reason_of(exc)
    try:
        with db.begin() as connection:
            reconciliation_runs.fail(connection, run_id, reason)
    except db.UNAVAILABLE as unavailable:
        logger.warning(
            "reconciliation {} stays running until the next one closes it: {}", run_id, reason_of(unavailable)
        )


def _log(run: Run) -> None:
    found = ", ".join(f"{count} {kind}" for kind, count in run.discrepancies.items()) or "no discrepancy"
    logger.log(
        "WARNING" if run.discrepancies else "INFO",
        "reconciliation {}: compared {} transactions, {} settlements and {} ledger entries in {:.1f} s; found {}",
        run.id, run.counts["transactions"], run.counts["settlements"], run.counts["ledger_entries"], run.seconds, found,
    )  # fmt: skip
