"""Runs of the reconciliation, which compares settlements with transactions, the ledger and statements.

`open_run` stores the run in a separate commit, so that it is visible. `carry_out` does everything else in one database
transaction. A run whose process dies leaves only a row with the status `running`, which the next run closes. PostgreSQL
compares (see the module `sql`), so this process loads no rows of the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, text, update

from gateway.db import allow_seq_scans
from gateway.domain.reconciliation import sql
from gateway.domain.shared import alerts
from gateway.errors import Conflict, ValidationFailed
from gateway.ids import new_id, rfc3339
from gateway.models.reconciliation import DISCREPANCY_KINDS, Discrepancy, ReconciliationRun
from gateway.states import RunStatus

ADVISORY_LOCK = 7_205_002
"""Held by the database transaction that compares, so that only one compares at a time."""
SORT_MEMORY = "64MB"
"""`work_mem` of a run: the memory of each hash table or sort before PostgreSQL uses temporary files."""
CORRELATION_MIN = 0.9
"""Tables are read in the order of their ids if this is correlated with their physical order (1: the same order)."""
NEVER_SPLIT = "5TB"
"""The minimum size of a table for a parallel scan; the largest value that PostgreSQL allows."""
CLIENT_CHECK_INTERVAL = "1s"
"""The interval at which PostgreSQL checks that the requesting process is alive, and otherwise stops."""
LISTED_MAX = 1_000
COMPARED_TABLES = ("transactions", "settlements", "refunds", "ledger_entries")


class ReconciliationRunning(Conflict):
    """Another reconciliation is running."""

    code = "reconciliation_running"
    remedy = "Wait until it has ended, then start this one with `flask reconcile`."


@dataclass(frozen=True, slots=True)
class Run:
    """One reconciliation. `counts` are of rows and discrepancies, `totals` are minor units by currency."""

    id: UUID
    status: str
    period_from: datetime | None
    period_to: datetime
    started_at: datetime
    finished_at: datetime | None
    counts: Mapping[str, Any]
    totals: Mapping[str, Mapping[str, int]]
    error: str | None
    provider: str | None
    requested_by: str | None

    @property
    def discrepancies(self) -> Mapping[str, int]:
        """Return the number of open discrepancies of each kind that it found, without zeros."""
        kinds: Mapping[str, int] = self.counts.get("discrepancies", {})
        return {kind: count for kind, count in kinds.items() if count}

    @property
    def compared(self) -> int:
        """Return the number of compared rows of `COMPARED_TABLES`."""
        return sum(self.counts.get(table, 0) for table in COMPARED_TABLES)

    @property
    def seconds(self) -> float:
        """Return the duration; 0 while it is running."""
        return (self.finished_at - self.started_at).total_seconds() if self.finished_at else 0.0


_R, _D = ReconciliationRun, Discrepancy
_RUN_COLUMNS = tuple(getattr(_R, name) for name in Run.__dataclass_fields__)


def open_run(connection: Connection, period_from: datetime | None, period_to: datetime | None) -> UUID:
    """Store that a run begins; return its id. Without `period_to` it covers everything until now.

    Raises:
        ReconciliationRunning: another one is running.
        ValidationFailed: the period ends before it begins.
    """
    if period_from is not None and period_to is not None and period_from >= period_to:
        raise ValidationFailed("The period of a reconciliation must end after it begins.")
    _take_lock(connection)
    run_id = new_id()
    connection.execute(
        insert(_R).values(
            id=run_id, period_from=period_from, period_to=func.coalesce(period_to, func.now()), started_at=func.now()
        )
    )
    return run_id


def start(connection: Connection, run_id: UUID) -> bool:
    """Begin a requested run, or begin it again after its process died; return whether there is anything to do.

    Raises:
        ReconciliationRunning: another one is running.
    """
    _take_lock(connection)
    started = connection.execute(
        update(_R)
        .where(_R.id == run_id, _R.status.in_((RunStatus.PENDING, RunStatus.RUNNING)))
        .values(status=RunStatus.RUNNING.value, started_at=func.now())
    )
    return started.rowcount == 1


def postpone(connection: Connection, run_id: UUID) -> None:
    """Return a run that could not compare to `pending`.

    The run that compares instead may have closed this one, which it cannot distinguish from a run whose process died.
    """
    connection.execute(
        update(_R)
        .where(_R.id == run_id, _R.status.in_((RunStatus.RUNNING, RunStatus.FAILED)))
        .values(status=RunStatus.PENDING.value, finished_at=None, error=None)
    )


def carry_out(connection: Connection, run_id: UUID, *, stuck_after_seconds: int, timeout_seconds: int) -> Run:
    """Compare, store the discrepancies, raise one alert if there are any, and complete the run; return it.

    A discrepancy that was found before keeps its row. A discrepancy that an operator resolved stays resolved, and
    raises no alert, until it changes.

    Raises:
        ReconciliationRunning: another one has begun.
        sqlalchemy.exc.OperationalError: it took longer than `timeout_seconds`, or the database became unavailable.
    """
    _take_lock(connection)
    _set_limits(connection, timeout_seconds)
    connection.execute(
        update(_R)
        .where(_R.status == "running", _R.id != run_id)
        .values(status="failed", finished_at=func.now(), error="Its process ended before the run.")
    )
    run = find(connection, run_id)
    period = {"period_from": run.period_from, "period_to": run.period_to, "provider": run.provider}
    connection.execute(sql.COMPARE, period | {"stuck_after_seconds": stuck_after_seconds})
    connection.execute(sql.ANALYZE)
    connection.execute(sql.DESCRIBE_DUPLICATES, period)
    connection.execute(sql.DESCRIBE_LEDGER, period)
    connection.execute(sql.RECORD, {"run_id": run_id})
    counts, totals = _sums(connection, run_id)
    connection.execute(
        update(_R)
        .where(_R.id == run_id, _R.status == "running")
        .values(status="completed", finished_at=func.clock_timestamp(), counts=counts, totals=totals)
    )
    done = find(connection, run_id)
    if done.discrepancies:
        _alert(connection, done)
    return done


def fail(connection: Connection, run_id: UUID, error: str) -> None:
    """Close a run that failed."""
    connection.execute(
        update(_R)
        .where(_R.id == run_id, _R.status == "running")
        .values(status="failed", finished_at=func.now(), error=error)
    )


def find(connection: Connection, run_id: UUID) -> Run:
    """Return the run with this id, which must exist."""
    return Run(*connection.execute(select(*_RUN_COLUMNS).where(_R.id == run_id)).one())


def found_by(connection: Connection, run_id: UUID, limit: int) -> Sequence[dict[str, Any]]:
    """Return at most `limit` open discrepancies that this run found last, new ones first."""
    names = ("id", "kind", "subject_id", "transaction_id", "settlement_id", "currency", "expected_amount",
             "actual_amount", "detail", "status", "first_run_id", "first_seen_at", "last_seen_at")  # fmt: skip
    rows = connection.execute(
        select(*(getattr(_D, name) for name in names))
        .where(_D.last_run_id == run_id, _D.status == "open")
        .order_by((_D.first_run_id == run_id).desc(), _D.id)
        .limit(min(limit, LISTED_MAX))
    )
    return [{name: _plain(value) for name, value in row._mapping.items()} for row in rows]


def represent(run: Run) -> dict[str, Any]:
    """Return the JSON representation of a run."""
    return {name: _plain(value) for name, value in asdict(run).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    return str(value) if isinstance(value, UUID) else value


def _take_lock(connection: Connection) -> None:
    if not connection.scalar(select(func.pg_try_advisory_xact_lock(ADVISORY_LOCK))):
        raise ReconciliationRunning("Another reconciliation is running; wait until it has ended.")


def _set_limits(connection: Connection, timeout_seconds: int) -> None:
    """Replace the settings for small statements by settings for a large one, in this transaction only."""
    values = {
        "statement_timeout": f"{timeout_seconds}s",
        "client_connection_check_interval": CLIENT_CHECK_INTERVAL,
        "work_mem": SORT_MEMORY,
        # Assign whole comparisons to the parallel workers, which is cheaper than splitting each of them. They return
        # few rows, but PostgreSQL expects millions, and would use no workers because of the cost of transferring them.
        "min_parallel_table_scan_size": NEVER_SPLIT,
        "min_parallel_index_scan_size": NEVER_SPLIT,
        "parallel_setup_cost": "0",
        "parallel_tuple_cost": "0",
    }
    if connection.scalar(sql.IDS_ARE_IN_ORDER, {"correlation": CORRELATION_MIN}):
        values |= {
            "random_page_cost": "1.1",
            "enable_hashjoin": "off",
        }  # the planner underestimates merge joins of ordered tables
    allow_seq_scans(connection)
    for name, value in values.items():
        connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})


def _sums(connection: Connection, run_id: UUID) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    counts: dict[str, Any] = dict.fromkeys((*COMPARED_TABLES, "statement_lines"), 0)
    totals: dict[str, dict[str, int]] = {}
    for row in connection.execute(sql.COMPARED):
        counts[row.kind] += row.counted
        totals.setdefault(row.currency, {}).update(row.sums)
    found = {row.kind: row for row in connection.execute(sql.FOUND, {"run_id": run_id})}
    counts["discrepancies"] = {kind: found[kind].open if kind in found else 0 for kind in DISCREPANCY_KINDS}
    counts["new"] = sum(row.new for row in found.values())
    counts["known"] = sum(row.open for row in found.values()) - counts["new"]
    counts["resolved"] = sum(row.resolved for row in found.values())
    return counts, totals


def _alert(connection: Connection, run: Run) -> None:
    number = sum(run.discrepancies.values())
    alerts.raise_alert(
        connection,
        "error",
        f"Reconciliation found {number} {'discrepancy' if number == 1 else 'discrepancies'}",
        {
            "kind": "reconciliation",
            "run_id": str(run.id),
            "counts": dict(run.discrepancies),
            "new": run.counts["new"],
            "known": run.counts["known"],
            "period_from": rfc3339(run.period_from) if run.period_from else None,
            "period_to": rfc3339(run.period_to),
        },
    )
