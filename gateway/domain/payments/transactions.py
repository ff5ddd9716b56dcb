"""Accept transactions, and cancel them before they are routed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from gateway.domain.payments.transaction_queries import COLUMNS, find, of_row, represent
from gateway.domain.shared.event_recording import RECORD_EVENTS
from gateway.domain.shared.idempotency import IdempotencyKey, StoredResponse, first_response, wait_for_first_request
from gateway.domain.shared.outbox import Topic
from gateway.errors import IdempotencyInProgress, InvalidState
from gateway.ids import new_id, time_of
from gateway.models import all_tables
from gateway.models.transactions import Transaction
from gateway.states import EventType, TransactionStatus

MAX_RETRIES = 3
ATTEMPT_LIMIT = 1 + MAX_RETRIES
"""Maximum number of attempts at one transaction before it is dead-lettered: the first one and its retries."""
TIME_OFF_MAX_SECONDS = 120
"""Maximum difference between the time that a process assigned to a transaction and the database's time."""


@dataclass(frozen=True, slots=True)
class NewTransaction:
    """A validated request for a transaction; `amount` in minor units."""

    amount: int
    currency: str
    payment_method: str
    reference: str | None = None
    description: str | None = None
    customer_id: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A transaction to be stored: its representation `shown`, and the response to its request."""

    id: UUID
    merchant_id: UUID
    shown: Mapping[str, Any]
    request_id: str
    key: IdempotencyKey | None
    response: StoredResponse

    @classmethod
    def of(cls, merchant_id: UUID, new: NewTransaction, request_id: str, key: IdempotencyKey | None) -> "Acceptance":
        """Return the acceptance of a request. Nothing is stored yet."""
        id = new_id()
        now = time_of(id)
        values = {"id": id, "merchant_id": merchant_id, "status": _PENDING, "created_at": now, "updated_at": now}
        shown = represent(values | {name: getattr(new, name) for name in _REQUESTED})
        return cls(
            id, merchant_id, shown, request_id, key, StoredResponse(201, json.dumps(shown), location_of(shown["id"]))
        )


_PENDING = TransactionStatus.PENDING.value
_REQUESTED = tuple(field.name for field in fields(NewTransaction))
_STORED = ("id", "merchant_id", *_REQUESTED, "request_id", "created_at")
"""The columns that an accepted transaction sets."""
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_COLUMNS = all_tables().tables[Transaction.__tablename__].columns  # with the types of foreign keys
_TYPES = {name: _COLUMNS[name].type.compile(_DIALECT) for name in _STORED}

# One statement is one round trip and one commit: transaction, outbox row and idempotency record exist together or not
# at all. A repeat waits for the first request's commit on the record's unique key, then inserts nothing. Lists with the
# same keys insert them in the order of the keys, so they cannot deadlock.
_STORE = text(f"""
    WITH new AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:acceptances AS json)) AS n (
            {", ".join(f"{name} {_TYPES[name]}" for name in _STORED)},
            key text, request_hash text, location text, http_status int, body text)
        WHERE created_at BETWEEN now() - make_interval(secs => {TIME_OFF_MAX_SECONDS})
                             AND now() + make_interval(secs => {TIME_OFF_MAX_SECONDS})
    ), record AS (
        INSERT INTO idempotency_records (merchant_id, key, request_hash, transaction_id, location, status, body)
        SELECT merchant_id, key, decode(request_hash, 'hex'), id, location, http_status, body
        FROM new WHERE key IS NOT NULL ORDER BY merchant_id, key
        ON CONFLICT DO NOTHING RETURNING transaction_id
    ), accepted AS (
        INSERT INTO transactions ({", ".join(_STORED)}, updated_at, attempt_limit)
        SELECT {", ".join(_STORED)}, created_at, {ATTEMPT_LIMIT}
        FROM new WHERE key IS NULL OR id IN (SELECT transaction_id FROM record)
        RETURNING id, merchant_id
    )
    INSERT INTO outbox (topic, subject_id, merchant_id) SELECT '{Topic.TRANSACTION_CREATED}', id, merchant_id
    FROM accepted RETURNING subject_id
""")  # noqa: S608  # constants


def store(connection: Connection, acceptances: Sequence[Acceptance]) -> list[bool]:
    """Store transactions with their outbox rows; return for each whether it was stored. If not, see `repeat`.

    `connection` may be in autocommit: a single statement does all of the writing.

    Raises:
        IdempotencyInProgress: the first request with one of the keys has not ended within
            `database_sessions.LOCK_TIMEOUT_MS`.
            Nothing is stored.
    """
    values = {"acceptances": json.dumps([_row_of(acceptance) for acceptance in acceptances])}
    with wait_for_first_request():
        stored = {row.subject_id for row in connection.execute(_STORE, values)}
    return [acceptance.id in stored for acceptance in acceptances]


def repeat(connection: Connection, acceptance: Acceptance) -> StoredResponse | None:
    """Return the response to the first request with the key of `acceptance`.

    None if there was no such request: the time of `acceptance` is wrong by more than `TIME_OFF_MAX_SECONDS`, because
    this process was suspended, or the database's clock was set. It must then be repeated with the right time.

    Raises:
        IdempotencyKeyReused: the key was used with a different request.
    """
    if acceptance.key is None:
        return None
    try:
        return first_response(connection, acceptance.merchant_id, acceptance.key)
    except IdempotencyInProgress:  # there is no record
        return None


def _row_of(acceptance: Acceptance) -> dict[str, Any]:
    """Return a row of `new` in `_STORE`. Members that it does not name are NULL."""
    key, response = acceptance.key, acceptance.response
    values = {**acceptance.shown, "request_id": acceptance.request_id}
    row = {name: values[name] for name in _STORED}
    if key is not None:
        row |= {
            "key": key.key,
            "request_hash": key.request_hash.hex(),
            "location": response.location,
            "http_status": response.status,
            "body": response.body,
        }
    return row


def location_of(transaction_id: UUID | str) -> str:
    """Return the path of a transaction."""
    return f"/v1/transactions/{transaction_id}"


_CANCEL = text(f"""
    WITH moved AS (
        UPDATE transactions SET status = 'canceled', updated_at = now()
        WHERE id = :id AND merchant_id = :merchant_id AND status = 'pending'
        RETURNING {", ".join(column.name for column in COLUMNS)}
    ), event_source AS (
        SELECT merchant_id, '{EventType.TRANSACTION_CANCELED}' AS type, id AS object_id, id AS transaction_id,
               CAST(NULL AS jsonb) AS snapshot
        FROM moved
    ), {RECORD_EVENTS}
    SELECT * FROM moved
""")  # noqa: S608  # a constant


def cancel(connection: Connection, merchant_id: UUID, transaction_id: UUID) -> dict[str, Any]:
    """Cancel a transaction that is not routed yet, and return it. Its message then has no effect.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
        InvalidState: it is not pending.
    """
    row = connection.execute(_CANCEL, {"id": transaction_id, "merchant_id": merchant_id}).one_or_none()
    if row is None:
        status = find(connection, merchant_id, transaction_id)["status"]
        raise InvalidState(f"This transaction is {status}; only a pending one can be canceled.")
    return of_row(row)
