"""The audit log, for operators: who did what, and when."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import TimestampParameter
from gateway.api.http.routes import ApiResponse, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.domain.shared import audit
from gateway.domain.shared.audit import AuditFilter

NAME_MAX_LENGTH = 255

routes = Routes("Audit log")


class AuditEntry(ResponseModel):
    """One action of a user, an API client or a command. It is committed together with the action."""

    id: Id
    object: Literal["audit_entry"]
    actor: Annotated[
        str,
        Field(
            description="Who acted: `user:` or `client:` and an id, or `cli:` and the name of a system user",
            examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"],
        ),
    ]
    action: Annotated[str, Field(description="What was done", examples=["dead_letter.replayed"])]
    subject: Annotated[
        str,
        Field(description="The id of the affected object", examples=["0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"]),
    ]
    detail: Annotated[dict[str, Any], Field(description="Details; the members depend on `action`")]
    created_at: Timestamp


class AuditQuery(ListQuery):
    """Filters of the audit log."""

    actor: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH, description="Entries of this actor")] = None
    action: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH, description="Entries of this action")] = None
    subject: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH, description="Entries about this object")] = None
    created_from: TimestampParameter | None = None
    created_to: TimestampParameter | None = None


@routes.get("/v1/audit-log", scope="operations:read", responses={200: page_of(AuditEntry)})
def list_audit_log(query: AuditQuery) -> ApiResponse:
    """List the entries of the audit log, newest first."""
    return list_response("audit_entry", query, audit.list_newest, AuditFilter(**query.filters()))
