"""Accepting transactions and reading them back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import eq, ge, le, lt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, text
from sqlalchemy.sql import ColumnElement

from gateway.domain.idempotency import Answer, Given, IdempotencyKey, first_answer, waiting_for_the_first
from gateway.domain.ids import new_id, rfc3339, utc_now
from gateway.domain.listing import conditions
from gateway.domain.outbox import Topic
from gateway.errors import NotFound
from gateway.models.transactions import Transaction
from gateway.states import TransactionStatus

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
    SELECT :id, :merchant_id, :amount, :currency, :payment_method, :reference, :description, :customer_id,
           CAST(:metadata AS jsonb), :attempt_limit, :request_id, :now, :now
"""
_INSERT_OUTBOX = "INSERT INTO outbox (topic, subject_id) SELECT :topic, id FROM accepted RETURNING subject_id"
_ACCEPT = text(f"WITH accepted AS ({_INSERT_TRANSACTION} RETURNING id) {_INSERT_OUTBOX}")
_ACCEPT_ONCE = text(f"""
    WITH record AS (
        INSERT INTO idempotency_records (merchant_id, key, request_hash, transaction_id, location, status, body)
        VALUES (:merchant_id, :key, :request_hash, :id, :location, :http_status, :body)
        ON CONFLICT DO NOTHING RETURNING transaction_id
    ), accepted AS ({_INSERT_TRANSACTION} FROM record RETURNING id) {_INSERT_OUTBOX}
""")  # noqa: S608  # both parts are constants


def accept(
    connection: Connection, merchant_id: UUID, new: NewTransaction, request_id: str, key: IdempotencyKey | None
) -> Given:
    """Store a transaction with its outbox row, or give the first answer again when `key` was used before.

    `connection` may be in autocommit: a single statement does all of the writing.

    Raises:
        IdempotencyKeyReused: `key` came with a different request before.
        IdempotencyInProgress: the first request with `key` has not ended within `db.LOCK_TIMEOUT_MS`.
    """
    transaction_id, now = new_id(), utc_now()
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
        connection.execute(_ACCEPT, values)
        return Given(answer, replayed=False)
    values |= {
        "key": key.key,
        "request_hash": key.request_hash,
        "location": answer.location,
        "http_status": answer.status,
        "body": answer.body,
    }
    with waiting_for_the_first():
        stored = connection.execute(_ACCEPT_ONCE, values).first()
    if stored is not None:
        return Given(answer, replayed=False)
    return Given(first_answer(connection, merchant_id, key), replayed=True)


def location_of(transaction_id: UUID) -> str:
    """The path of a transaction."""
    return f"/v1/transactions/{transaction_id}"


def _as_accepted(transaction_id: UUID, merchant_id: UUID, new: NewTransaction, now: datetime) -> dict[str, Any]:
    return _represent(
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


def _represent(
    *,
    id: UUID,
    merchant_id: UUID,
    created_at: datetime,
    updated_at: datetime,
    completed_at: datetime | None = None,
    provider: str | None = None,
    provider_reference: str | None = None,
    failure: dict[str, Any] | None = None,
    attempts: int = 0,
    amount_refunded: int = 0,
    **plain: Any,
) -> dict[str, Any]:
    return {
        "id": str(id),
        "object": "transaction",
        "merchant_id": str(merchant_id),
        **plain,
        "provider": provider,
        "provider_reference": provider_reference,
        "failure": failure,
        "attempts": attempts,
        "amount_refunded": amount_refunded,
        "created_at": rfc3339(created_at),
        "updated_at": rfc3339(updated_at),
        "completed_at": rfc3339(completed_at) if completed_at else None,
    }


_T = Transaction
_COLUMNS = (
    _T.id, _T.merchant_id, _T.amount, _T.currency, _T.status, _T.payment_method, _T.reference, _T.description,
    _T.customer_id, _T.metadata_, _T.provider, _T.provider_reference, _T.failure_code, _T.failure_message,
    _T.failure_category, _T.failure_retryable, _T.attempts, _T.amount_refunded, _T.created_at, _T.updated_at,
    _T.completed_at,
)  # fmt: skip


def _of_row(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    failure = row.failure_category and {
        "code": row.failure_code,
        "message": row.failure_message,
        "category": row.failure_category,
        "retryable": row.failure_retryable,
    }
    plain = ("amount", "currency", "status", "payment_method", "reference", "description", "customer_id", "metadata")
    shown = ("id", "merchant_id", "provider", "provider_reference", "attempts", "amount_refunded")
    times = ("created_at", "updated_at", "completed_at")
    values = row._mapping
    return _represent(failure=failure, **{name: values[name] for name in plain + shown + times})


def find(connection: Connection, merchant_id: UUID, transaction_id: UUID) -> dict[str, Any]:
    """One transaction of this merchant, as api.md shows it.

    Raises:
        NotFound: there is none, or it belongs to another merchant.
    """
    row = connection.execute(
        select(*_COLUMNS).where(_T.id == transaction_id, _T.merchant_id == merchant_id)
    ).one_or_none()
    if row is None:
        raise NotFound
    return _of_row(row)


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """Which transactions to list; None does not filter. Times are inclusive from, exclusive to."""

    status: str | None = None
    currency: str | None = None
    reference: str | None = None
    customer_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    amount_min: int | None = None
    amount_max: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as SQL."""
        return conditions(
            (_T.status, eq, self.status),
            (_T.currency, eq, self.currency),
            (_T.reference, eq, self.reference),
            (_T.customer_id, eq, self.customer_id),
            (_T.created_at, ge, self.created_from),
            (_T.created_at, lt, self.created_to),
            (_T.amount, ge, self.amount_min),
            (_T.amount, le, self.amount_max),
        )


def list_newest(
    connection: Connection, merchant_id: UUID, wanted: TransactionFilter, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    """At most `limit` transactions of this merchant that are older than `before`, newest first."""
    query = select(*_COLUMNS).where(_T.merchant_id == merchant_id, *wanted.conditions())
    if before is not None:
        query = query.where(_T.id < before)
    return [_of_row(row) for row in connection.execute(query.order_by(_T.id.desc()).limit(limit))]
