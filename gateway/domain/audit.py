"""The audit log: who did what to which object, written in the commit of the deed."""

from typing import Any

from sqlalchemy import Connection, insert

from gateway.domain.ids import new_id
from gateway.models.operations import AuditEntry


def record(
    connection: Connection, *, actor: str, action: str, subject: str, detail: dict[str, Any] | None = None
) -> None:
    """Note that `actor` did `action` (such as `dead_letter.replayed`) to the object with the id `subject`."""
    connection.execute(
        insert(AuditEntry).values(id=new_id(), actor=actor, action=action, subject=subject, detail=detail or {})
    )
