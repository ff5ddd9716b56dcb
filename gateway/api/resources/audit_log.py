"""The audit log over HTTP, for operators: who did what, when."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway import db
from gateway.api.http.paging import Page, list_page
from gateway.api.http.parameters import Moment
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Id, Time
from gateway.domain.shared import audit
from gateway.domain.shared.audit import AuditFilter

NAME_MAX_LENGTH = 255

routes = Routes("Audit log")


class AuditEntry(AnswerModel):
    """One deed, written in the same commit."""

    id: Id
    object: Literal["audit_entry"]
    actor: Annotated[str, Field(examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    action: Annotated[str, Field(examples=["dead_letter.replayed"])]
    subject: Annotated[str, Field(description="What it was done to", examples=["0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    detail: dict[str, Any]
    created_at: Time


class AuditPage(AnswerModel):
    """Entries of the audit log, newest first."""

    data: list[AuditEntry]
    next_cursor: str | None


class AuditQuery(Page):
    """Which entries to list. Times are inclusive from, exclusive to."""

    actor: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    action: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    subject: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    created_from: Moment | None = None
    created_to: Moment | None = None


@routes.get("/v1/audit-log", scope="operations:read", answers={200: AuditPage})
def list_audit_log(call: Call, query: AuditQuery) -> Reply:  # noqa: ARG001
    """List who did what, newest first."""
    wanted = AuditFilter(**query.model_dump(exclude={"limit", "cursor"}))
    with db.autocommit() as connection:
        page = list_page(
            "audit_entry", query, lambda before, limit: audit.list_newest(connection, wanted, before, limit)
        )
    return Reply(page)
