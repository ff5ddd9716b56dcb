"""Alerts to the operators, and the audit log."""

from datetime import datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base, CreatedAt, Id, Json, one_of

SEVERITIES = ("critical", "error", "warning", "info")


class Alert(Base):
    """A message to the operators, written in the commit of its cause."""

    __tablename__ = "alerts"
    __table_args__ = (
        one_of("severity", SEVERITIES),
        one_of("status", ("pending", "delivered", "failed", "logged")),
        Index(None, "created_at"),
    )

    id: Mapped[Id]
    severity: Mapped[str]
    message: Mapped[str]
    details: Mapped[Json]
    status: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(server_default="0")
    last_error: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]


class AuditEntry(Base):
    """One action on one object, with its actor and its time. Rows are never changed or deleted."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "subject", "id"),)

    id: Mapped[Id]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[CreatedAt]
