"""Read events and the objects that they are about.

An event stores no copy of its object. It is shown with the object's current row, in which the members that may have
changed since then are replaced by the event's snapshot.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import eq, ge, lt
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Connection, Row, Uuid, any_, literal, select
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import ColumnElement

from gateway.domain.payments import refund_queries, settlement_queries, transaction_queries
from gateway.domain.shared.listing import Listed, conditions, created_within, search
from gateway.errors import NotFound
from gateway.ids import rfc3339
from gateway.models.refunds import Refund
from gateway.models.settlements import Settlement
from gateway.models.transactions import Transaction
from gateway.models.webhooks import Event
from gateway.states import EventType

_Columns = Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]]
_Represent = Callable[[Row[*tuple[Any, ...]]], dict[str, Any]]

OBJECTS: dict[str, tuple[InstrumentedAttribute[UUID], _Columns, _Represent]] = {
    "transaction": (Transaction.id, transaction_queries.COLUMNS, transaction_queries.of_row),
    "refund": (Refund.id, refund_queries.COLUMNS, refund_queries.of_row),
    "settlement": (Settlement.id, settlement_queries.COLUMNS, settlement_queries.of_row),
}
"""The objects of events by the first part of the type: their id, columns and representation."""

_E = Event
COLUMNS = (_E.id, _E.type, _E.object_id, _E.snapshot, _E.created_at)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of `COLUMNS`."""

    id: UUID
    type: str
    object_id: UUID
    snapshot: dict[str, Any] | None
    created_at: datetime


def objects_of(connection: Connection, events: Iterable[StoredEvent]) -> dict[UUID, dict[str, Any]]:
    """Return the object of each event at the time of the event, by the event's id; one statement per kind of object."""
    by_kind: dict[str, list[StoredEvent]] = {}
    for event in events:
        by_kind.setdefault(event.type.partition(".")[0], []).append(event)
    shown: dict[UUID, dict[str, Any]] = {}
    for kind, same in by_kind.items():
        id, columns, represent = OBJECTS[kind]
        wanted = literal(list({event.object_id for event in same}), ARRAY(Uuid))
        rows = {row.id: row for row in connection.execute(select(*columns).where(id == any_(wanted)))}
        shown |= {event.id: _at_the_event(event, represent(rows[event.object_id])) for event in same}
    return shown


def _at_the_event(event: StoredEvent, shown: dict[str, Any]) -> dict[str, Any]:
    if "updated_at" in shown:
        shown["updated_at"] = rfc3339(event.created_at)
    return shown | (event.snapshot or {})


def _represent(event: StoredEvent, shown: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(event.id),
        "object": "event",
        "type": event.type,
        "created_at": rfc3339(event.created_at),
        "data": shown,
    }


def find(connection: Connection, merchant_id: UUID, event_id: UUID) -> dict[str, Any]:
    """Return one event of this merchant, with its object.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    query = select(*COLUMNS).where(_E.merchant_id == merchant_id, _E.id == event_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound
    event = StoredEvent(*row)
    return _represent(event, objects_of(connection, [event])[event.id])


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A filter of events; None does not filter. The `from` times are inclusive, the `to` times exclusive."""

    type: EventType | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


def list_newest(
    connection: Connection, merchant_id: UUID, filters: EventFilter, before: UUID | None, limit: int
) -> Listed:
    """Return at most `limit` events of this merchant that are older than `before`, newest first."""
    listed = search(
        connection,
        columns=COLUMNS,
        id=_E.id,
        represent=lambda row: {name: row._mapping[name] for name in StoredEvent.__slots__},
        indexed=[
            _E.merchant_id == merchant_id,
            *conditions((_E.id, lt, before)),
            *created_within(_E.id, filters.created_from, filters.created_to),
        ],
        tested=conditions(
            (_E.type, eq, filters.type),
            (_E.created_at, ge, filters.created_from),
            (_E.created_at, lt, filters.created_to),
        ),
        limit=limit,
    )
    events = [StoredEvent(**row) for row in listed]
    objects = objects_of(connection, events)
    return Listed([_represent(event, objects[event.id]) for event in events], listed.reached)
