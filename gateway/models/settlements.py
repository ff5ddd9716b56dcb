"""Settlements, the double-entry ledger, and balances."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base, Currency, Id, MinorUnits, Serial, one_of

LEDGER_ACCOUNTS = ("provider_clearing", "merchant_payable", "fees")


class Settlement(Base):
    """The proceeds of a completed transaction: one per transaction, one per provider charge.

    `merchant_id` is the transaction's. A foreign key would only repeat the check of the transaction's foreign key.
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

    `source_id` is the settlement or the refund that posted it. For each source, debits equal credits.
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
    """The sums of a merchant's ledger entries in one currency, in minor units, without the changes not yet folded.

    The merchant's available balance is `settled - refunded - fees`. It is negative if refunds exceed it.
    """

    __tablename__ = "balances"

    merchant_id: Mapped[UUID] = mapped_column(ForeignKey("merchants.id"), primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    settled: Mapped[MinorUnits]
    refunded: Mapped[MinorUnits]
    fees: Mapped[MinorUnits]


class BalanceChange(Base):
    """The change of a balance by one posting until it is folded: concurrent postings do not wait for one row."""

    __tablename__ = "balance_changes"
    __table_args__ = (Index(None, "merchant_id"),)

    id: Mapped[Serial]
    merchant_id: Mapped[UUID]
    currency: Mapped[Currency]
    settled: Mapped[MinorUnits]
    refunded: Mapped[MinorUnits]
    fees: Mapped[MinorUnits]
