"""Check the invariants, store the results, and raise alerts.

`evaluate` checks all invariants on one snapshot of the database, which contains a payment that completes meanwhile
either with everything that belongs to it, or not at all. `record` stores the results for /metrics and for the next
check, and raises alerts. The scopes are described in `payment_sql` and `refund_sql`.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert

from gateway.db import allow_seq_scans
from gateway.domain.invariants.payment_sql import PAYMENT_INVARIANTS, Invariant
from gateway.domain.invariants.refund_sql import REFUND_INVARIANTS
from gateway.domain.shared import alerts
from gateway.domain.shared.alerts import IDS_MAX
from gateway.ids import parse_id, rfc3339, smallest_id
from gateway.models.invariants import InvariantCheck

INVARIANTS = (*PAYMENT_INVARIANTS, *REFUND_INVARIANTS)
ADVISORY_LOCK = 7_205_003
"""Held while results are recorded, so that concurrent checks raise one alert."""
OVERLAP_SECONDS = 60
"""Maximum delay between the time in a row and its visibility, because of long commits and different clocks."""
WINDOW_MAX_SECONDS = 900
"""Maximum period of a recent check, however long ago the last one was: it must end before the next one."""
REMEMBERED_MAX = 500
"""Maximum number of offending rows of an invariant that are stored and checked again until they are repaired."""
ALERT_PAUSE_SECONDS = 3_600
"""The interval of alerts about an invariant that stays broken."""
EVERYTHING = datetime(1970, 1, 1, tzinfo=UTC)

_LIMITS = {
    "client_connection_check_interval": "1s",
    "plan_cache_mode": "force_custom_plan",  # the number of rows depends on the parameters
    "random_page_cost": "1.1",  # the indexes are in the order of their tables
    "work_mem": "64MB",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """An offending row: usually its id, and a description."""

    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class InvariantResult:
    """The number of offending rows of an invariant, and the first of them."""

    invariant: Invariant
    violations: int
    sample: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One check of all invariants. `since` is None if it covered everything; `missed` is the period not covered."""

    checked_at: datetime
    since: datetime | None
    missed: timedelta
    results: tuple[InvariantResult, ...]

    @property
    def broken(self) -> list[InvariantResult]:
        """Return the results of the broken invariants."""
        return [result for result in self.results if result.violations]


@dataclass(frozen=True, slots=True)
class Latest:
    """The last result of an invariant, for /metrics."""

    invariant: Invariant
    checked_at: datetime
    violations: int


_C = InvariantCheck
_NAMES = [invariant.name for invariant in INVARIANTS]


def evaluate(connection: Connection, *, full: bool, horizon_seconds: int, limit_seconds: int) -> Report:
    """Check every invariant on one snapshot. `connection` must not have executed a statement in this transaction.

    Args:
        connection: its transaction becomes REPEATABLE READ and read-only.
        full: whether to cover everything, or only what can have changed since the last check and its findings.
        horizon_seconds: the time after which the sweep must have requeued an unfinished transaction.
        limit_seconds: the maximum duration.

    Raises:
        sqlalchemy.exc.OperationalError: it took longer, or the database became unavailable.
    """
    deadline = time.monotonic() + limit_seconds
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    for name, value in _LIMITS.items():
        _set(connection, name, value)
    allow_seq_scans(connection)
    checked_at: datetime = connection.execute(select(func.now())).scalar_one()
    earlier = connection.execute(select(_C.checked_at, _C.sample).where(_C.name.in_(_NAMES))).all()
    since, missed = (EVERYTHING, timedelta()) if full else _window(checked_at, [row.checked_at for row in earlier])
    known, known_keys = _known(violation["subject"] for row in earlier for violation in row.sample)
    values = {
        "since": since,
        "from_id": smallest_id(since),
        "known": known,
        "known_keys": known_keys,
        "horizon_seconds": horizon_seconds,
        "limit": REMEMBERED_MAX,
    }
    results = []
    for invariant in INVARIANTS:
        _set(connection, "statement_timeout", f"{max(1, round((deadline - time.monotonic()) * 1000))}ms")
        results.append(_check(connection, invariant, values))
    return Report(checked_at, None if full else since, missed, tuple(results))


def _set(connection: Connection, name: str, value: str) -> None:
    """Change a setting of PostgreSQL in this transaction only."""
    connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})


def _window(checked_at: datetime, earlier: Sequence[datetime]) -> tuple[datetime, timedelta]:
    """Return the start of a recent check, and the period that is not covered if the last check was too long ago."""
    oldest = checked_at - timedelta(seconds=WINDOW_MAX_SECONDS)
    if len(earlier) < len(INVARIANTS):
        return oldest, timedelta()
    wanted = min(earlier) - timedelta(seconds=OVERLAP_SECONDS)
    return max(wanted, oldest), max(oldest - wanted, timedelta())


def _known(subjects: Iterable[str]) -> tuple[list[UUID], list[str]]:
    """Return the offending rows of the last check: ids, and idempotency records (merchant/key)."""
    parsed = {subject: parse_id(subject) for subject in subjects}
    return [id for id in parsed.values() if id], [subject for subject in parsed if subject[36:37] == "/"]


def _check(connection: Connection, invariant: Invariant, values: Mapping[str, Any]) -> InvariantResult:
    statement = text(f"""
        SELECT count(*) OVER () AS violations, subject, detail FROM ({invariant.sql}) AS offending
        ORDER BY subject LIMIT :limit
    """)  # noqa: S608  # the parts are constants
    rows = connection.execute(statement, values).all()
    return InvariantResult(
        invariant, rows[0].violations if rows else 0, tuple(Violation(row.subject, row.detail) for row in rows)
    )


def record(connection: Connection, report: Report, *, grace_seconds: float) -> list[str]:
    """Store the results of a check, and raise a critical alert for each invariant that needs one; return their names.

    An alert is raised when an invariant becomes broken, and every `ALERT_PAUSE_SECONDS` while it stays broken. An
    invariant with `has_grace` must be broken for `grace_seconds` first, because after an outage much work is overdue
    until the sweep has run. A report that is older than the stored one changes nothing.
    """
    connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
    earlier = {row.name: row for row in connection.execute(select(_C.__table__))}
    rows: list[dict[str, Any]] = []
    alerted: list[str] = []
    for result in report.results:
        before = earlier.get(result.invariant.name)
        if before is not None and before.checked_at >= report.checked_at:
            continue
        row = _row(result, before, report.checked_at)
        if _is_due(result.invariant, row, grace_seconds):
            _alert(connection, result, row["broken_since"])
            row["alerted_at"] = report.checked_at
            alerted.append(result.invariant.name)
        rows.append(row)
    if rows:
        upsert = insert(_C)
        changes = {name: upsert.excluded[name] for name in rows[0] if name != "name"}
        connection.execute(upsert.on_conflict_do_update(index_elements=[_C.name], set_=changes), rows)
    connection.execute(delete(_C).where(_C.name.not_in(_NAMES)))
    return alerted


def _row(result: InvariantResult, before: Row[*tuple[Any, ...]] | None, checked_at: datetime) -> dict[str, Any]:
    broken = result.violations > 0
    return {
        "name": result.invariant.name,
        "checked_at": checked_at,
        "violations": result.violations,
        "sample": [{"subject": violation.subject, "detail": violation.detail} for violation in result.sample],
        "broken_since": ((before and before.broken_since) or checked_at) if broken else None,
        "alerted_at": before.alerted_at if broken and before else None,
    }


def _is_due(invariant: Invariant, row: Mapping[str, Any], grace_seconds: float) -> bool:
    if row["broken_since"] is None:
        return False
    if invariant.has_grace and row["checked_at"] - row["broken_since"] < timedelta(seconds=grace_seconds):
        return False
    pause = timedelta(seconds=ALERT_PAUSE_SECONDS)
    return row["alerted_at"] is None or row["checked_at"] - row["alerted_at"] >= pause


def _alert(connection: Connection, result: InvariantResult, broken_since: datetime) -> None:
    first = result.sample[0]
    alerts.raise_alert(
        connection,
        "critical",
        f"Invariant broken: {result.invariant.name}, {result.violations} times; first {first.subject}: {first.detail}",
        {
            "kind": "invariant",
            "invariant": result.invariant.name,
            "description": result.invariant.description,
            "metric": result.invariant.metric,
            "count": result.violations,
            "broken_since": rfc3339(broken_since),
            "sample_ids": [violation.subject for violation in result.sample[:IDS_MAX]],
            "what_to_do": f"{result.invariant.remedy} flask invariants lists all offending rows.",
        },
    )


def latest(connection: Connection) -> list[Latest]:
    """Return the last result of each invariant, without those that were never checked."""
    query = select(_C.name, _C.checked_at, _C.violations).where(_C.name.in_(_NAMES))
    rows = {row.name: row for row in connection.execute(query)}
    return [
        Latest(invariant, rows[invariant.name].checked_at, rows[invariant.name].violations)
        for invariant in INVARIANTS
        if invariant.name in rows
    ]
