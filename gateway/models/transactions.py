"""Transactions, the outbox, and idempotency records."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import LargeBinary

from gateway.models.base import Base, CreatedAt, Currency, Id, Json, MinorUnits, Serial, one_of
from gateway.money import AMOUNT_MAX, AMOUNT_MIN
from gateway.states import TransactionStatus

BRIN = {"autosummarize": "on", "pages_per_range": 32}
"""Options of BRIN indexes of tables that grow at the end. They find recent rows, and cost almost nothing to maintain.
Pages that are not yet summarized are always read; autosummarize keeps their number small."""


class Transaction(Base):
    """One payment of a merchant's customer. `attempt_limit` is the maximum number of attempts.

    `amount_refunded` is the sum of its completed refunds, `amount_refund_reserved` of its unfinished ones.
    """

    __tablename__ = "transactions"
    __table_args__ = (
        CheckConstraint(f"amount BETWEEN {AMOUNT_MIN} AND {AMOUNT_MAX}", name="amount"),
        CheckConstraint("amount_refunded BETWEEN 0 AND amount", name="amount_refunded"),
        CheckConstraint("amount_refund_reserved BETWEEN 0 AND amount - amount_refunded", name="amount_refund_reserved"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("attempts >= 0 AND requeues >= 0", name="counters"),
        one_of("status", TransactionStatus),
        CheckConstraint(
            "status IN ('pending', 'canceled', 'dead_lettered', 'failed') OR provider IS NOT NULL", name="routed"
        ),
        CheckConstraint(
            "(status IN ('completed', 'partially_refunded', 'refunded')) = "
            "(provider_reference IS NOT NULL AND completed_at IS NOT NULL)",
            name="settled",
        ),
        CheckConstraint("(status IN ('failed', 'dead_lettered')) = (failure_category IS NOT NULL)", name="failed"),
        Index(None, "merchant_id", "id"),
        Index(None, "merchant_id", "reference", "id", postgresql_where=text("reference IS NOT NULL")),
        Index(None, "merchant_id", "customer_id", "id", postgresql_where=text("customer_id IS NOT NULL")),
        Index(
            "ix_transactions_uncommon", "merchant_id", "status", "id", postgresql_where=text("status <> 'completed'")
        ),
        Index("ix_transactions_unfinished", "id", postgresql_where=text("status IN ('pending', 'processing')")),
        Index("ix_transactions_dead_lettered", "id", postgresql_where=text("status = 'dead_lettered'")),
        Index(None, "updated_at", postgresql_using="brin", postgresql_with=BRIN),
    )

    id: Mapped[Id]
    merchant_id: Mapped[UUID] = mapped_column(ForeignKey("merchants.id"))
    amount: Mapped[MinorUnits]
    currency: Mapped[Currency]
    status: Mapped[str] = mapped_column(server_default=TransactionStatus.PENDING.value)
    payment_method: Mapped[str]
    reference: Mapped[str | None]
    description: Mapped[str | None]
    customer_id: Mapped[str | None]
    metadata_: Mapped[Json] = mapped_column("metadata", server_default=text("'{}'"))
    provider: Mapped[str | None]
    provider_reference: Mapped[str | None]
    routing_reason: Mapped[str | None]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    failure_category: Mapped[str | None]
    failure_retryable: Mapped[bool | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    attempt_limit: Mapped[int]
    requeues: Mapped[int] = mapped_column(server_default="0")
    amount_refunded: Mapped[MinorUnits] = mapped_column(server_default="0")
    amount_refund_reserved: Mapped[MinorUnits] = mapped_column(server_default="0")
    request_id: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    routed_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    requeued_at: Mapped[datetime | None]
    last_error: Mapped[str | None]


class OutboxMessage(Base):
    """Work that is committed but not yet published. The relay deletes the row when the broker has confirmed it.

    `merchant_id`, if there is one, is for fairness among merchants. It has no foreign key, which would lock the row of
    the merchant.
    """

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "merchant_id", "id"),)

    id: Mapped[Serial]
    topic: Mapped[str]
    subject_id: Mapped[UUID]
    merchant_id: Mapped[UUID | None]
    created_at: Mapped[CreatedAt]


class IdempotencyRecord(Base):
    """The first response to a request with an Idempotency-Key. Repeated requests get the same bytes.

    `merchant_id` has no foreign key, because the created object has one. A second check would take a third of the
    database time of a POST.
    """

    __tablename__ = "idempotency_records"
    __table_args__ = (
        CheckConstraint("length(key) BETWEEN 1 AND 255", name="key"),
        CheckConstraint("octet_length(request_hash) = 32", name="request_hash"),
        Index(None, "created_at", postgresql_using="brin", postgresql_with=BRIN),
    )

    merchant_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes] = mapped_column(LargeBinary)
    transaction_id: Mapped[UUID | None]
    location: Mapped[str | None]
    status: Mapped[int]
    body: Mapped[str]
    created_at: Mapped[CreatedAt]
