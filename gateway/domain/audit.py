"""The audit log: who did what to which object, written in the commit of the deed."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert

from gateway.domain.ids import new_id
from gateway.models.operations import AuditEntry


def record(
    connection: Connection, *, actor: str, action: str, subject: str, detail: dict[str, Any] | None = None
) -> None:
    """Note that `actor` did `action` (such as `dead_letter.replayed`) to the object with the id `subject`."""
    record_all(connection, actor=actor, action=action, details={subject: detail or {}})


def record_all(connection: Connection, *, actor: str, action: str, details: Mapping[str, dict[str, Any]]) -> None:
    """Note that `actor` did `action` to several objects, whose ids lead to the details."""
    entries = [
        {"id": new_id(), "actor": actor, "action": action, "subject": subject, "detail": detail}
        for subject, detail in details.items()
    ]
    if entries:
        connection.execute(insert(AuditEntry), entries)
