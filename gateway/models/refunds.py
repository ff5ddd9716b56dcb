"""Refunds."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base, Currency, Id, MinorUnits, one_of
from gateway.states import RefundStatus


class Refund(Base):
    """Money that is returned to a merchant's customer. `attempt_limit` is the maximum number of attempts.

    While it is pending or dead-lettered, its amount is reserved in `transactions.amount_refund_reserved`.
    """

    __tablename__ = "refunds"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("attempts >= 0 AND requeues >= 0", name="counters"),
        one_of("status", RefundStatus),
        CheckConstraint(
            "(status = 'completed') = (provider_reference IS NOT NULL AND completed_at IS NOT NULL)", name="completed"
        ),
        CheckConstraint("(status IN ('failed', 'dead_lettered')) = (failure_category IS NOT NULL)", name="failed"),
        UniqueConstraint("provider", "provider_reference"),
        Index(None, "merchant_id", "id"),
        Index(None, "transaction_id", "id"),
        Index("ix_refunds_unfinished", "id", postgresql_where=text("status = 'pending'")),
    )

    id: Mapped[Id]
    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"))
    merchant_id: Mapped[UUID] = mapped_column(ForeignKey("merchants.id"))
    amount: Mapped[MinorUnits]
    currency: Mapped[Currency]
    reason: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default=RefundStatus.PENDING.value)
    provider: Mapped[str]
    provider_reference: Mapped[str | None]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    failure_category: Mapped[str | None]
    failure_retryable: Mapped[bool | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    attempt_limit: Mapped[int]
    requeues: Mapped[int] = mapped_column(server_default="0")
    request_id: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    requeued_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
