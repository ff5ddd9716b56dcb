"""The bodies of webhooks: created once for each event, and stored before the first byte is sent.

All attempts and resends of an event send the same bytes, so a release that changes the representation of an object
changes only the bodies of events that were not sent yet.

The body is created when a delivery is claimed for the first time, not in the statement that records the event. That
statement runs for every payment, and most events have no endpoint; it would also need a second declaration of each
representation, in SQL.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain.webhooks import event_queries
from gateway.domain.webhooks.event_queries import StoredEvent
from gateway.ids import rfc3339

BODY_MAX_BYTES = 20_000
"""Bodies are shorter than this, because Standard Webhooks asks for small ones."""
OMISSIBLE: tuple[tuple[str, Any], ...] = (("metadata", {}), ("description", None))
"""Members that may make a body too long, and their substitutes."""


def make(event: StoredEvent, shown: dict[str, Any]) -> bytes:
    """Return the body for `event`, whose object is represented by `shown`."""
    body: dict[str, Any] = {"type": event.type, "timestamp": rfc3339(event.created_at), "data": shown}
    encoded = _encoded(body)
    for name, substitute in OMISSIBLE:
        if len(encoded) < BODY_MAX_BYTES:
            break
        if shown.get(name):
            body["data"] = body["data"] | {name: substitute}
            body["omitted"] = [*body.get("omitted", []), name]
            encoded = _encoded(body)
    return encoded


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


# If two workers make the body of one event at the same time, perhaps with different versions of the code, both get the
# bytes that were stored first. Rows are inserted in the order of their ids, so two statements never wait in a circle.
_STORE = text("""
    INSERT INTO webhook_bodies AS stored (event_id, transaction_id, body)
    SELECT * FROM unnest(CAST(:event_ids AS uuid[]), CAST(:transaction_ids AS uuid[]), CAST(:bodies AS bytea[]))
           AS new (event_id, transaction_id, body)
    ORDER BY event_id
    ON CONFLICT (event_id) DO UPDATE SET body = stored.body
    RETURNING event_id, body
""")


def make_and_store(
    connection: Connection, events: Iterable[StoredEvent], transaction_ids: Mapping[UUID, UUID]
) -> dict[UUID, bytes]:
    """Make and store the bodies of `events`; return the stored bodies by the events' ids.

    `transaction_ids` has the transaction of each event. There is one statement per kind of object, and one that stores.
    """
    new = {event.id: event for event in events}
    if not new:
        return {}
    objects = event_queries.objects_of(connection, new.values())
    values = {
        "event_ids": list(new),
        "transaction_ids": [transaction_ids[id] for id in new],
        "bodies": [make(event, objects[id]) for id, event in new.items()],
    }
    return {row.event_id: row.body for row in connection.execute(_STORE, values)}
