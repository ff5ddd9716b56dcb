"""Raising alerts: a row in the commit of its cause, delivered afterwards (gateway.flows.alerts)."""

from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from loguru import logger
from sqlalchemy import Connection, insert, select

from gateway.domain import outbox
from gateway.domain.ids import new_id, utc_now
from gateway.models.operations import Alert

Severity = Literal["critical", "error", "warning", "info"]


def raise_alert(connection: Connection, severity: Severity, message: str, details: dict[str, Any]) -> None:
    """Tell the operators, once this database transaction has committed; the log is told at once."""
    alert_id = new_id()
    connection.execute(insert(Alert).values(id=alert_id, severity=severity, message=message, details=details))
    outbox.enqueue(connection, outbox.Topic.ALERT_RAISED, [alert_id])
    logger.log(severity.upper(), "alert: {}", message)


def raised_within(connection: Connection, seconds: int, kind: str) -> bool:
    """Whether an alert whose details name this `kind` was raised lately."""
    since = utc_now() - timedelta(seconds=seconds)
    query = select(Alert.id).where(Alert.created_at > since, Alert.details["kind"].astext == kind).limit(1)
    return connection.scalar(query) is not None


def overdue(connection: Connection, seconds: int, limit: int) -> list[UUID]:
    """At most `limit` alerts that wait for longer than `seconds`: their message was lost, or the relay is away."""
    since = utc_now() - timedelta(seconds=seconds)
    query = select(Alert.id).where(Alert.status == "pending", Alert.created_at < since).order_by(Alert.id).limit(limit)
    return list(connection.scalars(query))
