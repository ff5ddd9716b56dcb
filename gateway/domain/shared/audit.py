"""The audit log: who did what to which object, written in the commit of the action."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, insert

from gateway.domain.shared.listing import Listed, conditions, created_within, search
from gateway.ids import new_id, rfc3339
from gateway.models.operations import AuditEntry

_E = AuditEntry


def record(
    connection: Connection, *, actor: str, action: str, subject: str, detail: dict[str, Any] | None = None
) -> None:
    """Record that `actor` did `action`, such as `dead_letter.replayed`, to the object with the id `subject`."""
    record_all(connection, actor=actor, action=action, details={subject: detail or {}})


def record_all(connection: Connection, *, actor: str, action: str, details: Mapping[str, dict[str, Any]]) -> None:
    """Record that `actor` did `action` to several objects; `details` has the details by the object's id."""
    entries = [
        {"id": new_id(), "actor": actor, "action": action, "subject": subject, "detail": detail}
        for subject, detail in details.items()
    ]
    if entries:
        connection.execute(insert(AuditEntry), entries)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """A filter of entries; None does not filter. The `from` times are inclusive, the `to` times exclusive."""

    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


def list_newest(connection: Connection, filters: AuditFilter, before: UUID | None, limit: int) -> Listed:
    """Return at most `limit` entries older than `before`, newest first."""
    indexed = conditions((_E.subject, eq, filters.subject), (_E.id, lt, before))
    indexed += created_within(_E.id, filters.created_from, filters.created_to)
    rest = conditions(
        (_E.actor, eq, filters.actor),
        (_E.action, eq, filters.action),
        (_E.created_at, ge, filters.created_from),
        (_E.created_at, lt, filters.created_to),
    )
    columns = (_E.id, _E.actor, _E.action, _E.subject, _E.detail, _E.created_at)
    return search(
        connection, columns=columns, id=_E.id, represent=_represent, indexed=indexed, tested=rest, limit=limit
    )


def _represent(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "object": "audit_entry",
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "detail": row.detail,
        "created_at": rfc3339(row.created_at),
    }
