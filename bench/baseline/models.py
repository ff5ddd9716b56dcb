"""The tables and the database sessions of the plain pipeline."""

import os
import uuid
from datetime import UTC, datetime

from sqlalchemy import DateTime, ForeignKey, UniqueConstraint, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker

engine = create_engine(os.environ["BASELINE_DATABASE_URL"], pool_size=20)
Session = sessionmaker(engine)


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """The declarative base."""

    type_annotation_map = {datetime: DateTime(timezone=True)}  # noqa: RUF012  # as in SQLAlchemy's documentation


class Transaction(Base):
    """A payment."""

    __tablename__ = "transactions"
    __table_args__ = (UniqueConstraint("merchant_id", "idempotency_key"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    merchant_id: Mapped[uuid.UUID]
    idempotency_key: Mapped[str | None]
    amount: Mapped[int]
    currency: Mapped[str]
    payment_method: Mapped[str]
    reference: Mapped[str | None]
    status: Mapped[str] = mapped_column(default="pending")
    provider: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Attempt(Base):
    """A call of the provider."""

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transactions.id"))
    outcome: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime] = mapped_column(default=now)


class Settlement(Base):
    """The settlement of a payment."""

    __tablename__ = "settlements"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transaction_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transactions.id"), unique=True)
    amount: Mapped[int]
    fee: Mapped[int]
    net: Mapped[int]
    currency: Mapped[str]
    provider_reference: Mapped[str]
    settled_at: Mapped[datetime] = mapped_column(default=now)
    entries: Mapped[list["LedgerEntry"]] = relationship()


class LedgerEntry(Base):
    """One side of a posting."""

    __tablename__ = "ledger_entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    settlement_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("settlements.id"))
    account: Mapped[str]
    direction: Mapped[str]
    amount: Mapped[int]
    currency: Mapped[str]
