"""Settlements, and the double-entry ledger that they post to."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base, Currency, Id, MinorUnits, Serial, one_of

LEDGER_ACCOUNTS = ("provider_clearing", "merchant_payable", "fees")


class Settlement(Base):
    """What a completed transaction brought the merchant: one per transaction, one per provider charge.

    The merchant is the transaction's; a reference of its own would only be checked again for every payment.
    """

    __tablename__ = "settlements"
    __table_args__ = (
        UniqueConstraint("transaction_id"),
        UniqueConstraint("provider", "provider_reference"),
        CheckConstraint("amount > 0 AND fee BETWEEN 0 AND amount AND net = amount - fee", name="net"),
        one_of("status", ("settled",)),
        Index(None, "merchant_id", "id"),
    )

    id: Mapped[Id]
    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"))
    merchant_id: Mapped[UUID]
    amount: Mapped[MinorUnits]
    fee: Mapped[MinorUnits]
    net: Mapped[MinorUnits]
    currency: Mapped[Currency]
    status: Mapped[str]
    provider: Mapped[str]
    provider_reference: Mapped[str]
    attempts: Mapped[int]
    settled_at: Mapped[datetime]


class LedgerEntry(Base):
    """One side of a posting. Entries are never changed; a correction is a new posting.

    `source_id` is the settlement or the refund that posted it. Of one source, debits equal credits in its currency.
    """

    __tablename__ = "ledger_entries"
    __table_args__ = (
        UniqueConstraint("source_id", "account", "direction"),
        CheckConstraint("amount > 0", name="amount"),
        one_of("account", LEDGER_ACCOUNTS),
        one_of("direction", ("debit", "credit")),
    )

    id: Mapped[Serial]
    source_id: Mapped[UUID]
    transaction_id: Mapped[UUID]
    merchant_id: Mapped[UUID]
    account: Mapped[str]
    direction: Mapped[str]
    amount: Mapped[MinorUnits]
    currency: Mapped[Currency]
    posted_at: Mapped[datetime]


class Balance(Base):
    """What a merchant's ledger entries in one currency add up to, in minor units: the changes folded in so far.

    What is available to the merchant is `settled - refunded - fees`; it is below zero when refunds exceed it.
    """

    __tablename__ = "balances"

    merchant_id: Mapped[UUID] = mapped_column(ForeignKey("merchants.id"), primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    settled: Mapped[MinorUnits]
    refunded: Mapped[MinorUnits]
    fees: Mapped[MinorUnits]


class BalanceChange(Base):
    """What one posting adds to a balance, until it is folded in: postings at once need not wait for one row."""

    __tablename__ = "balance_changes"
    __table_args__ = (Index(None, "merchant_id"),)

    id: Mapped[Serial]
    merchant_id: Mapped[UUID]
    currency: Mapped[Currency]
    settled: Mapped[MinorUnits]
    refunded: Mapped[MinorUnits]
    fees: Mapped[MinorUnits]
