"""Checking the invariants, keeping what was found, and alerting about it.

`evaluate` runs all of them on one snapshot of the database, so that payments which complete meanwhile are in it with
everything that belongs to them or not at all. `record` keeps the result for /metrics and for the next check, and
alerts. What a scope covers is said in `gateway.domain.invariants.payment_sql` and
`gateway.domain.invariants.refund_sql`.
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
from gateway.ids import parse_id, rfc3339
from gateway.models.invariants import InvariantCheck

INVARIANTS = (*PAYMENT_INVARIANTS, *REFUND_INVARIANTS)
ADVISORY_LOCK = 7_205_003
"""Held while results are recorded, so that two checks at once raise one alert."""
OVERLAP_SECONDS = 60
"""A row is seen this much later than its time says, at most: the longest commit, and the clocks of several hosts."""
WINDOW_MAX_SECONDS = 900
"""A recent check goes back no further, however long ago the last one was: it must end before the next one."""
REMEMBERED_MAX = 500
"""Offending rows of an invariant that are kept, and looked at again until they are repaired."""
ALERT_PAUSE_SECONDS = 3_600
"""An invariant that stays broken is alerted about once in this time."""
EVERYTHING = datetime(1970, 1, 1, tzinfo=UTC)

_LIMITS = {
    "client_connection_check_interval": "1s",
    "plan_cache_mode": "force_custom_plan",  # how much a statement reads depends on its parameters
    "random_page_cost": "1.1",  # the indexes are in the order of their tables
    "work_mem": "64MB",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A row that breaks an invariant: usually an id, and what is wrong with it."""

    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class InvariantResult:
    """How many rows break an invariant, and the first of them."""

    invariant: Invariant
    violations: int
    sample: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One check of all invariants. `since` is None when it covered everything; `missed` is what it did not cover."""

    checked_at: datetime
    since: datetime | None
    missed: timedelta
    results: tuple[InvariantResult, ...]

    @property
    def broken(self) -> list[InvariantResult]:
        """The invariants that do not hold."""
        return [result for result in self.results if result.violations]


@dataclass(frozen=True, slots=True)
class Latest:
    """What the last check of an invariant found, for /metrics."""

    invariant: Invariant
    checked_at: datetime
    violations: int


_C = InvariantCheck
_NAMES = [invariant.name for invariant in INVARIANTS]


def evaluate(connection: Connection, *, full: bool, horizon_seconds: int, limit_seconds: int) -> Report:
    """Check every invariant on one snapshot; `connection` must not have run a statement in this transaction.

    Args:
        connection: its transaction becomes REPEATABLE READ and read-only.
        full: cover everything; else what can have changed since the last check, and what that one found.
        horizon_seconds: an unfinished transaction that was touched within this time waits for the sweep.
        limit_seconds: the longest that all of it may take.

    Raises:
        sqlalchemy.exc.OperationalError: it took longer, or the database went away.
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
        "from_id": _smallest_id(since),
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
    """Change a setting of PostgreSQL until this transaction ends."""
    connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})


def _window(checked_at: datetime, earlier: Sequence[datetime]) -> tuple[datetime, timedelta]:
    """Since when a recent check looks, and how much time it leaves out because the last one was too long ago."""
    oldest = checked_at - timedelta(seconds=WINDOW_MAX_SECONDS)
    if len(earlier) < len(INVARIANTS):
        return oldest, timedelta()
    wanted = min(earlier) - timedelta(seconds=OVERLAP_SECONDS)
    return max(wanted, oldest), max(oldest - wanted, timedelta())


def _known(subjects: Iterable[str]) -> tuple[list[UUID], list[str]]:
    """Offending rows of the last check: those with an id, and idempotency records (merchant/key)."""
    parsed = {subject: parse_id(subject) for subject in subjects}
    return [id for id in parsed.values() if id], [subject for subject in parsed if subject[36:37] == "/"]


def _smallest_id(at: datetime) -> UUID:
    """The smallest UUIDv7 of this millisecond (RFC 9562: 48 bits of milliseconds first)."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def _check(connection: Connection, invariant: Invariant, values: Mapping[str, Any]) -> InvariantResult:
    statement = text(f"""
        SELECT count(*) OVER () AS violations, subject, detail FROM ({invariant.sql}) AS offending
        ORDER BY subject LIMIT :limit
    """)  # noqa: S608  # the parts are constants
    rows = connection.execute(statement, values).all()
    return InvariantResult(
        invariant, rows[0].violations if rows else 0, tuple(Violation(row.subject, row.detail) for row in rows)
    )


def record(connection: Connection, report: Report, *, patience_seconds: float) -> list[str]:
    """Keep what a check found, and raise a critical alert for each invariant that needs one; return their names.

    An invariant is alerted about when it becomes broken, again after it held in between, and once in
    `ALERT_PAUSE_SECONDS` while it stays broken. A patient one must be broken for `patience_seconds` first: when
    queues return after an outage, much stands still beyond the horizon until the sweep has run.
    A report that is older than what is kept already changes nothing.
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
        if _is_due(result.invariant, row, patience_seconds):
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


def _is_due(invariant: Invariant, row: Mapping[str, Any], patience_seconds: float) -> bool:
    if row["broken_since"] is None:
        return False
    if invariant.patient and row["checked_at"] - row["broken_since"] < timedelta(seconds=patience_seconds):
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
            "what_to_do": f"{result.invariant.remedy} flask invariants shows all that is broken.",
        },
    )


def latest(connection: Connection) -> list[Latest]:
    """What the last check of each invariant found; those never checked are left out."""
    query = select(_C.name, _C.checked_at, _C.violations).where(_C.name.in_(_NAMES))
    rows = {row.name: row for row in connection.execute(query)}
    return [
        Latest(invariant, rows[invariant.name].checked_at, rows[invariant.name].violations)
        for invariant in INVARIANTS
        if invariant.name in rows
    ]
