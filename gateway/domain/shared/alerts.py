"""Raise alerts: rows that are written in the commit of their cause, and delivered later by gateway.flows.alerts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from loguru import logger
from sqlalchemy import Connection, insert, select, text, update

from gateway.domain.shared import outbox
from gateway.ids import new_id, utc_now
from gateway.models.operations import Alert

Severity = Literal["critical", "error", "warning", "info"]

ATTEMPTS_MAX = 4
"""Maximum number of attempts to deliver one alert, whatever messages caused them."""
IDS_MAX = 20
"""Maximum number of ids in the details of one alert; `count` is the number of all."""


def raise_alert(connection: Connection, severity: Severity, message: str, details: dict[str, Any]) -> UUID:
    """Raise an alert, which is delivered after the commit of this database transaction, and log it; return its id."""
    alert_id = new_id()
    connection.execute(insert(Alert).values(id=alert_id, severity=severity, message=message, details=details))
    outbox.enqueue(connection, outbox.Topic.ALERT_RAISED, [alert_id])
    logger.log(severity.upper(), "alert: {} {}", message, details)
    return alert_id


def raise_once(
    connection: Connection, seconds: int, severity: Severity, message: str, details: dict[str, Any]
) -> UUID | None:
    """Raise an alert unless one with the same `kind` and `subject` in its details was raised within `seconds`.

    Processes that detect the same problem concurrently wait for this transaction, and then find its alert. Return the
    id of the alert, or None.
    """
    kind, subject = details["kind"], details.get("subject")
    connection.execute(_SERIALIZE, {"what": f"alert {kind} {subject}"})
    if raised_within(connection, seconds, kind, subject=subject):
        return None
    return raise_alert(connection, severity, message, details)


_SERIALIZE = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")


def raised_within(
    connection: Connection, seconds: int, kind: str, times: int = 1, *, subject: str | None = None
) -> bool:
    """Return whether at least `times` alerts of this `kind`, and of the `subject` if given, were raised recently."""
    since = utc_now() - timedelta(seconds=seconds)
    query = select(Alert.id).where(Alert.created_at > since, Alert.details["kind"].astext == kind).limit(times)
    if subject is not None:
        query = query.where(Alert.details["subject"].astext == subject)
    return len(connection.scalars(query).all()) >= times


def overdue(connection: Connection, seconds: int, limit: int) -> list[UUID]:
    """Return at most `limit` alerts that have waited for more than `seconds`, because of a lost message or no relay."""
    since = utc_now() - timedelta(seconds=seconds)
    query = select(Alert.id).where(Alert.status == "pending", Alert.created_at < since).order_by(Alert.id).limit(limit)
    return list(connection.scalars(query))


@dataclass(frozen=True, slots=True)
class AlertClaim:
    """An alert to be delivered; `attempts` includes this attempt."""

    id: UUID
    severity: str
    message: str
    details: dict[str, Any]
    created_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class AlertResult:
    """The result of an attempt to deliver an alert. A `pending` alert is retried."""

    id: UUID
    status: Literal["delivered", "logged", "failed", "pending"]
    error: str | None = None


def claim(connection: Connection, ids: Sequence[UUID]) -> list[AlertClaim]:
    """Count an attempt at each of `ids` that is still pending; return these, oldest first."""
    columns = (Alert.id, Alert.severity, Alert.message, Alert.details, Alert.created_at, Alert.attempts)
    rows = connection.execute(
        update(Alert)
        .where(Alert.id.in_(ids), Alert.status == "pending")
        .values(attempts=Alert.attempts + 1)
        .returning(*columns)
    )
    return sorted((AlertClaim(*row) for row in rows), key=lambda claim: claim.id)


_RECORD = text("""
    UPDATE alerts a
    SET status = r.status, last_error = r.error, finished_at = CASE WHEN r.status <> 'pending' THEN now() END
    FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:errors AS text[])) AS r (id, status, error)
    WHERE a.id = r.id AND a.status = 'pending'
""")


def record(connection: Connection, results: Sequence[AlertResult]) -> None:
    """Store the results of attempts. An alert that another worker has delivered meanwhile stays delivered."""
    values = {
        "ids": [result.id for result in results],
        "statuses": [result.status for result in results],
        "errors": [result.error for result in results],
    }
    connection.execute(_RECORD, values)
