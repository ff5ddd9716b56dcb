"""The audit log over HTTP, for operators: who did what, when."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import TimestampParameter
from gateway.api.http.routes import ApiResponse, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp
from gateway.domain.shared import audit
from gateway.domain.shared.audit import AuditFilter

NAME_MAX_LENGTH = 255

routes = Routes("Audit log")


class AuditEntry(ResponseModel):
    """One deed, written in the same commit."""

    id: Id
    object: Literal["audit_entry"]
    actor: Annotated[str, Field(examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    action: Annotated[str, Field(examples=["dead_letter.replayed"])]
    subject: Annotated[str, Field(description="What it was done to", examples=["0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    detail: dict[str, Any]
    created_at: Timestamp


class AuditPage(ResponseModel):
    """Entries of the audit log, newest first."""

    data: list[AuditEntry]
    next_cursor: str | None


class AuditQuery(ListQuery):
    """Which entries to list. Times are inclusive from, exclusive to."""

    actor: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    action: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    subject: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    created_from: TimestampParameter | None = None
    created_to: TimestampParameter | None = None


@routes.get("/v1/audit-log", scope="operations:read", responses={200: AuditPage})
def list_audit_log(query: AuditQuery) -> ApiResponse:
    """List who did what, newest first."""
    wanted = AuditFilter(**query.model_dump(exclude={"limit", "cursor"}))
    return list_response("audit_entry", query, audit.list_newest, wanted)
