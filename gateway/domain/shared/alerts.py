"""Raising alerts: a row in the commit of its cause, delivered afterwards (gateway.flows.alerts)."""

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
"""Tries at delivering one alert: the first one and three retries, whichever messages brought it."""
IDS_MAX = 20
"""Ids that the details of one alert name; their `count` tells how many there are."""


def raise_alert(connection: Connection, severity: Severity, message: str, details: dict[str, Any]) -> UUID:
    """Raise an alert, which is delivered once this database transaction has committed; log it now; return its id."""
    alert_id = new_id()
    connection.execute(insert(Alert).values(id=alert_id, severity=severity, message=message, details=details))
    outbox.enqueue(connection, outbox.Topic.ALERT_RAISED, [alert_id])
    logger.log(severity.upper(), "alert: {} {}", message, details)
    return alert_id


def raise_once(
    connection: Connection, seconds: int, severity: Severity, message: str, details: dict[str, Any]
) -> UUID | None:
    """Raise an alert unless one with the same `kind` and `subject` in its details was raised within `seconds`.

    Processes that detect the same problem concurrently wait for this transaction, and then find its alert. Returns the
    id of the alert, or None.
    """
    kind, subject = details["kind"], details.get("subject")
    connection.execute(_ONE_AT_A_TIME, {"what": f"alert {kind} {subject}"})
    if raised_within(connection, seconds, kind, subject=subject):
        return None
    return raise_alert(connection, severity, message, details)


_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")


def raised_within(
    connection: Connection, seconds: int, kind: str, times: int = 1, *, subject: str | None = None
) -> bool:
    """Return whether this many alerts of the `kind`, and of the `subject` if one is given, were raised recently."""
    since = utc_now() - timedelta(seconds=seconds)
    query = select(Alert.id).where(Alert.created_at > since, Alert.details["kind"].astext == kind).limit(times)
    if subject is not None:
        query = query.where(Alert.details["subject"].astext == subject)
    return len(connection.scalars(query).all()) >= times


def overdue(connection: Connection, seconds: int, limit: int) -> list[UUID]:
    """At most `limit` alerts that wait for longer than `seconds`: their message was lost, or the relay is away."""
    since = utc_now() - timedelta(seconds=seconds)
    query = select(Alert.id).where(Alert.status == "pending", Alert.created_at < since).order_by(Alert.id).limit(limit)
    return list(connection.scalars(query))


@dataclass(frozen=True, slots=True)
class AlertClaim:
    """An alert that is about to be delivered; `attempts` counts this one."""

    id: UUID
    severity: str
    message: str
    details: dict[str, Any]
    created_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class AlertResult:
    """What a try at delivering came to: `pending` is one that is to be tried again."""

    id: UUID
    status: Literal["delivered", "logged", "failed", "pending"]
    error: str | None = None


def claim(connection: Connection, ids: Sequence[UUID]) -> list[AlertClaim]:
    """Count a try at each of `ids` that still waits to be delivered, oldest first."""
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
    """Write what the tries came to; an alert that another worker delivered meanwhile stays delivered."""
    values = {
        "ids": [result.id for result in results],
        "statuses": [result.status for result in results],
        "errors": [result.error for result in results],
    }
    connection.execute(_RECORD, values)
