"""Accepting transactions, and canceling them before they are routed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain.payments.transaction_queries import COLUMNS, find, of_row, represent
from gateway.domain.shared.event_recording import RECORD_EVENTS
from gateway.domain.shared.idempotency import IdempotencyKey, StoredResponse, first_response, wait_for_first_request
from gateway.domain.shared.outbox import Topic
from gateway.errors import IdempotencyInProgress, InvalidState
from gateway.ids import new_id, time_of
from gateway.states import EventType, TransactionStatus

MAX_RETRIES = 3
ATTEMPT_LIMIT = 1 + MAX_RETRIES
"""Attempts at one transaction before it is dead-lettered: the first one and its retries."""
TIME_OFF_MAX_SECONDS = 120
"""Maximum difference between the time that a process assigned to a transaction and the database's time."""


@dataclass(frozen=True, slots=True)
class NewTransaction:
    """What a merchant asks for, validated; `amount` in minor units."""

    amount: int
    currency: str
    payment_method: str
    reference: str | None = None
    description: str | None = None
    customer_id: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A transaction to be stored, as its merchant is going to see it, and the answer that tells so."""

    id: UUID
    merchant_id: UUID
    shown: Mapping[str, Any]
    request_id: str
    key: IdempotencyKey | None
    response: StoredResponse

    @classmethod
    def of(cls, merchant_id: UUID, new: NewTransaction, request_id: str, key: IdempotencyKey | None) -> "Acceptance":
        """The acceptance of what a merchant asks for. Nothing is stored yet."""
        id = new_id()
        shown = _as_accepted(id, merchant_id, new, time_of(id))
        return cls(
            id, merchant_id, shown, request_id, key, StoredResponse(201, json.dumps(shown), location_of(shown["id"]))
        )


# One statement is one round trip and one commit: transaction, outbox row and idempotency record exist together or not
# at all. A repeat waits for the first request's commit on the record's unique key, then inserts nothing. Two lists with
# the same keys wait for each other in the order of the keys, never in a circle.
_STORE = text(f"""
    WITH new AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:acceptances AS json)) AS n (
            id uuid, merchant_id uuid, amount bigint, currency text, payment_method text, reference text,
            description text, customer_id text, metadata jsonb, request_id text, created_at timestamptz,
            key text, request_hash text, location text, http_status int, body text)
        WHERE created_at BETWEEN now() - make_interval(secs => {TIME_OFF_MAX_SECONDS})
                             AND now() + make_interval(secs => {TIME_OFF_MAX_SECONDS})
    ), record AS (
        INSERT INTO idempotency_records (merchant_id, key, request_hash, transaction_id, location, status, body)
        SELECT merchant_id, key, decode(request_hash, 'hex'), id, location, http_status, body
        FROM new WHERE key IS NOT NULL ORDER BY merchant_id, key
        ON CONFLICT DO NOTHING RETURNING transaction_id
    ), accepted AS (
        INSERT INTO transactions (id, merchant_id, amount, currency, payment_method, reference, description,
                                  customer_id, metadata, attempt_limit, request_id, created_at, updated_at)
        SELECT id, merchant_id, amount, currency, payment_method, reference, description, customer_id,
               metadata, {ATTEMPT_LIMIT}, request_id, created_at, created_at
        FROM new WHERE key IS NULL OR id IN (SELECT transaction_id FROM record)
        RETURNING id, merchant_id
    )
    INSERT INTO outbox (topic, subject_id, merchant_id) SELECT '{Topic.TRANSACTION_CREATED}', id, merchant_id
    FROM accepted RETURNING subject_id
""")  # noqa: S608  # constants


def store(connection: Connection, acceptances: Sequence[Acceptance]) -> list[bool]:
    """Store transactions with their outbox rows; return for each whether it was stored. If not, `repeat` finds out why.

    `connection` may be in autocommit: a single statement does all of the writing.

    Raises:
        IdempotencyInProgress: the first request with one of the keys has not ended within `sessions.LOCK_TIMEOUT_MS`.
            Nothing is stored.
    """
    values = {"acceptances": json.dumps([_row_of(acceptance) for acceptance in acceptances])}
    with wait_for_first_request():
        stored = {row.subject_id for row in connection.execute(_STORE, values)}
    return [acceptance.id in stored for acceptance in acceptances]


def repeat(connection: Connection, acceptance: Acceptance) -> StoredResponse | None:
    """Return the answer to the first request with the key of `acceptance`.

    None if there was no such request: the time of `acceptance` is wrong by more than `TIME_OFF_MAX_SECONDS`, because
    this process was suspended, or the database's clock was set. It must then be repeated with the right time.

    Raises:
        IdempotencyKeyReused: the key came with a different request then.
    """
    if acceptance.key is None:
        return None
    try:
        return first_response(connection, acceptance.merchant_id, acceptance.key)
    except IdempotencyInProgress:  # there is no record
        return None


_STORED = (
    "id", "merchant_id", "amount", "currency", "payment_method", "reference", "description", "customer_id", "metadata",
    "created_at",
)  # fmt: skip


def _row_of(acceptance: Acceptance) -> dict[str, Any]:
    """A row of `new` in `_STORE`; members that it does not name are NULL."""
    shown, key, answer = acceptance.shown, acceptance.key, acceptance.response
    row = {name: shown[name] for name in _STORED}
    row["request_id"] = acceptance.request_id
    if key is not None:
        row |= {
            "key": key.key,
            "request_hash": key.request_hash.hex(),
            "location": answer.location,
            "http_status": answer.status,
            "body": answer.body,
        }
    return row


def location_of(transaction_id: UUID | str) -> str:
    """The path of a transaction."""
    return f"/v1/transactions/{transaction_id}"


def _as_accepted(transaction_id: UUID, merchant_id: UUID, new: NewTransaction, now: datetime) -> dict[str, Any]:
    return represent(
        id=transaction_id,
        merchant_id=merchant_id,
        amount=new.amount,
        currency=new.currency,
        status=TransactionStatus.PENDING.value,
        payment_method=new.payment_method,
        reference=new.reference,
        description=new.description,
        customer_id=new.customer_id,
        metadata=new.metadata,
        created_at=now,
        updated_at=now,
    )


_CANCEL = text(f"""
    WITH moved AS (
        UPDATE transactions SET status = 'canceled', updated_at = now()
        WHERE id = :id AND merchant_id = :merchant_id AND status = 'pending'
        RETURNING {", ".join(column.expression.name for column in COLUMNS)}
    ), event_source AS (
        SELECT merchant_id, '{EventType.TRANSACTION_CANCELED}' AS type, id AS object_id, id AS transaction_id,
               CAST(NULL AS jsonb) AS snapshot
        FROM moved
    ), {RECORD_EVENTS}
    SELECT * FROM moved
""")  # noqa: S608  # a constant


def cancel(connection: Connection, merchant_id: UUID, transaction_id: UUID) -> dict[str, Any]:
    """Cancel a transaction that is not routed yet. Its message, wherever it is, then finds nothing to route.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
        InvalidState: it is not pending.
    """
    row = connection.execute(_CANCEL, {"id": transaction_id, "merchant_id": merchant_id}).one_or_none()
    if row is None:
        status = find(connection, merchant_id, transaction_id)["status"]
        raise InvalidState(f"This transaction is {status}; only a pending one can be canceled.")
    return of_row(row)
