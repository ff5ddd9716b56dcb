"""List, read and resolve discrepancies."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, text, update
from sqlalchemy.sql import ColumnElement

from gateway.domain.shared import audit
from gateway.domain.shared.listing import conditions, newest
from gateway.errors import AlreadyResolved, NotFound
from gateway.ids import rfc3339
from gateway.models.reconciliation import Discrepancy, ReconciliationFinding
from gateway.states import DiscrepancyStatus

_D, _F = Discrepancy, ReconciliationFinding
_TABLE = Discrepancy.__table__


@dataclass(frozen=True, slots=True)
class DiscrepancyFilter:
    """A filter of discrepancies; None does not filter. `run_id` selects those that this run found."""

    kind: str | None = None
    status: str | None = None
    transaction_id: UUID | None = None
    run_id: UUID | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the filter as SQL, without the run."""
        return conditions(
            (_D.kind, eq, self.kind), (_D.status, eq, self.status), (_D.transaction_id, eq, self.transaction_id)
        )


def list_newest(
    connection: Connection, filters: DiscrepancyFilter, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    """Return at most `limit` discrepancies older than `before`, newest first."""
    query = select(_TABLE).where(*filters.conditions())
    key = _D.id
    if filters.run_id is not None:
        key = _F.discrepancy_id
        query = query.join(_F, _F.discrepancy_id == _D.id).where(_F.run_id == filters.run_id)
    return [_represent(row) for row in connection.execute(newest(query, key, before, limit))]


def find(connection: Connection, discrepancy_id: UUID) -> dict[str, Any]:
    """Return one discrepancy.

    Raises:
        NotFound: there is none with this id.
    """
    row = connection.execute(select(_TABLE).where(_D.id == discrepancy_id)).one_or_none()
    if row is None:
        raise NotFound
    return _represent(row)


def resolve(
    connection: Connection, discrepancy_id: UUID, resolution: str, note: str | None, actor: str
) -> dict[str, Any]:
    """Store the resolution of a discrepancy; return it. It stays resolved while later runs find it unchanged.

    Raises:
        NotFound: there is none with this id.
        AlreadyResolved: it was resolved before.
    """
    resolved = connection.execute(
        update(_D)
        .where(_D.id == discrepancy_id, _D.status == DiscrepancyStatus.OPEN)
        .values(
            status=DiscrepancyStatus.RESOLVED.value,
            resolution=resolution,
            note=note,
            resolved_by=actor,
            resolved_at=text("now()"),
        )
        .returning(*_TABLE.columns)
    ).one_or_none()
    if resolved is None:
        earlier = find(connection, discrepancy_id)
        raise AlreadyResolved(f"This discrepancy was already resolved at {earlier['resolved_at']}.")
    detail = {"kind": resolved.kind, "resolution": resolution, "note": note}
    audit.record(connection, actor=actor, action="discrepancy.resolved", subject=str(discrepancy_id), detail=detail)
    return _represent(resolved)


def _represent(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    ids = ("subject_id", "transaction_id", "settlement_id", "first_run_id", "last_run_id")
    plain = ("currency", "expected_amount", "actual_amount", "detail", "resolution", "note", "resolved_by")
    values = row._mapping
    return {
        "id": str(row.id),
        "object": "discrepancy",
        "kind": row.kind,
        "status": row.status,
        **{name: str(values[name]) if values[name] else None for name in ids},
        **{name: values[name] for name in plain},
        "first_seen_at": rfc3339(row.first_seen_at),
        "last_seen_at": rfc3339(row.last_seen_at),
        "resolved_at": rfc3339(row.resolved_at) if row.resolved_at else None,
    }
