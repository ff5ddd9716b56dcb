"""Dead letters: failed work that waits for an operator's decision."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base, Id, Json, one_of
from gateway.states import DeadLetterStatus


class DeadLetter(Base):
    """One row per dead transaction or refund of a message, or one per message that names none.

    The dead letter of a refund also has the `transaction_id` of the refunded transaction. There is no foreign key,
    because a message may name a transaction that never existed.
    """

    __tablename__ = "dead_letters"
    __table_args__ = (
        one_of("status", DeadLetterStatus),
        CheckConstraint("(status = 'open') = (resolved_at IS NULL)", name="resolved"),
        UniqueConstraint("message_key", "transaction_id", "refund_id", postgresql_nulls_not_distinct=True),
        Index(
            "uq_dead_letters_open_subject",
            "transaction_id",
            "refund_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("status = 'open' AND (transaction_id IS NOT NULL OR refund_id IS NOT NULL)"),
        ),
        Index("ix_dead_letters_status_id", "status", "id"),
        Index(None, "merchant_id", "id"),
        Index(None, "transaction_id"),
    )

    id: Mapped[Id]
    message_key: Mapped[str]
    transaction_id: Mapped[UUID | None]
    refund_id: Mapped[UUID | None]
    merchant_id: Mapped[UUID | None]
    queue: Mapped[str]
    task: Mapped[str | None]
    reason: Mapped[str]
    exception: Mapped[str | None]
    attempts: Mapped[int]
    payload: Mapped[str]
    headers: Mapped[Json] = mapped_column(JSONB)
    status: Mapped[str] = mapped_column(server_default=DeadLetterStatus.OPEN.value)
    first_failed_at: Mapped[datetime]
    dead_lettered_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]
    note: Mapped[str | None]
