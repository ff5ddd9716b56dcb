"""Accepting transactions, and canceling them before they are routed."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway import db
from gateway.domain.events import TELLING
from gateway.domain.idempotency import Answer, Given, IdempotencyKey, first_answer, waiting_for_the_first
from gateway.domain.ids import new_id, time_of
from gateway.domain.outbox import Topic
from gateway.domain.transaction_queries import COLUMNS, find, of_row, represent
from gateway.errors import InvalidState
from gateway.states import EventType, TransactionStatus

MAX_RETRIES = 3
ATTEMPT_LIMIT = 1 + MAX_RETRIES
"""Attempts at one transaction before it is dead-lettered: the first one and its retries."""


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


# One statement is one round trip and one commit: transaction, outbox row and idempotency record exist together or not
# at all. A repeat waits for the first request's commit on the record's unique key, then inserts nothing.
_INSERT_TRANSACTION = """
    INSERT INTO transactions (id, merchant_id, amount, currency, payment_method, reference, description, customer_id,
                              metadata, attempt_limit, request_id, created_at, updated_at)
    SELECT %(id)s, %(merchant_id)s, %(amount)s, %(currency)s, %(payment_method)s, %(reference)s, %(description)s,
           %(customer_id)s, CAST(%(metadata)s AS jsonb), %(attempt_limit)s, %(request_id)s, %(now)s, %(now)s
"""
_INSERT_OUTBOX = "INSERT INTO outbox (topic, subject_id) SELECT %(topic)s, id FROM accepted RETURNING subject_id"
_ACCEPT = f"WITH accepted AS ({_INSERT_TRANSACTION} RETURNING id) {_INSERT_OUTBOX}"
_ACCEPT_ONCE = f"""
    WITH record AS (
        INSERT INTO idempotency_records (merchant_id, key, request_hash, transaction_id, location, status, body)
        VALUES (%(merchant_id)s, %(key)s, %(request_hash)s, %(id)s, %(location)s, %(http_status)s, %(body)s)
        ON CONFLICT DO NOTHING RETURNING transaction_id
    ), accepted AS ({_INSERT_TRANSACTION} FROM record RETURNING id) {_INSERT_OUTBOX}
"""  # noqa: S608  # both parts are constants


def accept(
    connection: Connection, merchant_id: UUID, new: NewTransaction, request_id: str, key: IdempotencyKey | None
) -> Given:
    """Store a transaction with its outbox row, or give the first answer again when `key` was used before.

    `connection` may be in autocommit: a single statement does all of the writing.

    Raises:
        IdempotencyKeyReused: `key` came with a different request before.
        IdempotencyInProgress: the first request with `key` has not ended within `db.LOCK_TIMEOUT_MS`.
    """
    transaction_id = new_id()
    now = time_of(transaction_id)
    answer = Answer(201, json.dumps(_as_accepted(transaction_id, merchant_id, new, now)), location_of(transaction_id))
    values: dict[str, Any] = {
        "id": transaction_id,
        "merchant_id": merchant_id,
        "amount": new.amount,
        "currency": new.currency,
        "payment_method": new.payment_method,
        "reference": new.reference,
        "description": new.description,
        "customer_id": new.customer_id,
        "metadata": json.dumps(new.metadata),
        "attempt_limit": ATTEMPT_LIMIT,
        "request_id": request_id,
        "now": now,
        "topic": Topic.TRANSACTION_CREATED.value,
    }
    if key is None:
        db.first_row(connection, _ACCEPT, values)
        return Given(answer, replayed=False)
    values |= {
        "key": key.key,
        "request_hash": key.request_hash,
        "location": answer.location,
        "http_status": answer.status,
        "body": answer.body,
    }
    with waiting_for_the_first():
        stored = db.first_row(connection, _ACCEPT_ONCE, values)
    if stored is not None:
        return Given(answer, replayed=False)
    return Given(first_answer(connection, merchant_id, key), replayed=True)


def location_of(transaction_id: UUID) -> str:
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
    ), happened AS (
        SELECT merchant_id, '{EventType.TRANSACTION_CANCELED}' AS type, id AS object_id, id AS transaction_id,
               CAST(NULL AS jsonb) AS state
        FROM moved
    ), {TELLING}
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
