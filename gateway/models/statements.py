"""Settlement statements of providers: their lists of charges and refunds."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import LargeBinary

from gateway.models.base import Base, CreatedAt, Currency, Id, Json, MinorUnits, one_of
from gateway.models.transactions import BRIN

LINE_TYPES = ("charge", "refund")


class Statement(Base):
    """One uploaded file. The same file of the same provider is stored once.

    It covers everything that happened at the provider from `period_from` (inclusive) to `period_to` (exclusive).
    """

    __tablename__ = "statements"
    __table_args__ = (
        UniqueConstraint("provider", "content_hash"),
        CheckConstraint("octet_length(content_hash) = 32", name="content_hash"),
        CheckConstraint("period_from < period_to", name="period"),
    )

    id: Mapped[Id]
    provider: Mapped[str]
    content_hash: Mapped[bytes] = mapped_column(LargeBinary)
    period_from: Mapped[datetime]
    period_to: Mapped[datetime]
    lines: Mapped[int]
    totals: Mapped[Json]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("reconciliation_runs.id"))
    uploaded_by: Mapped[str]
    created_at: Mapped[CreatedAt]


class StatementLine(Base):
    """One line of a statement; `number` is the line number in the file.

    `subject_id` is the id in its idempotency key, if there is one: of the transaction for a charge, or of the refund.
    """

    __tablename__ = "statement_lines"
    __table_args__ = (
        one_of("type", LINE_TYPES),
        CheckConstraint("amount > 0 AND fee >= 0", name="amounts"),
        Index("ix_statement_lines_charge", "provider", "provider_reference", postgresql_where=text("type = 'charge'")),
        Index("ix_statement_lines_refund", "subject_id", postgresql_where=text("type = 'refund'")),
        Index(None, "at", postgresql_using="brin", postgresql_with=BRIN),
    )

    statement_id: Mapped[UUID] = mapped_column(ForeignKey("statements.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    provider: Mapped[str]
    type: Mapped[str]
    provider_reference: Mapped[str]
    idempotency_key: Mapped[str]
    subject_id: Mapped[UUID | None]
    amount: Mapped[MinorUnits]
    fee: Mapped[MinorUnits]
    currency: Mapped[Currency]
    at: Mapped[datetime]
