"""Reconciliation runs and the discrepancies that they found."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base, Currency, Id, Json, MinorUnits, one_of

DISCREPANCY_KINDS = (
    "missing_settlement",
    "amount_mismatch",
    "currency_mismatch",
    "duplicate_settlement",
    "orphan_settlement",
    "ledger_imbalance",
    "stuck_processing",
)


class ReconciliationRun(Base):
    """One comparison of transactions with settlements and ledger over a period of completion times."""

    __tablename__ = "reconciliation_runs"
    __table_args__ = (one_of("status", ("running", "completed", "failed")), Index(None, "started_at"))

    id: Mapped[Id]
    status: Mapped[str] = mapped_column(server_default="running")
    period_from: Mapped[datetime | None]
    period_to: Mapped[datetime]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    counts: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    totals: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    error: Mapped[str | None]


class Discrepancy(Base):
    """One disagreement. Found again, it is the same row with a later `last_run_id`."""

    __tablename__ = "discrepancies"
    __table_args__ = (
        one_of("kind", DISCREPANCY_KINDS),
        one_of("status", ("open", "resolved")),
        UniqueConstraint("kind", "subject_id"),
        Index(None, "last_run_id", "id"),
        Index(None, "first_run_id", "id"),
    )

    id: Mapped[Id]
    kind: Mapped[str]
    subject_id: Mapped[UUID]
    transaction_id: Mapped[UUID | None]
    settlement_id: Mapped[UUID | None]
    currency: Mapped[Currency | None]
    expected_amount: Mapped[MinorUnits | None]
    actual_amount: Mapped[MinorUnits | None]
    detail: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="open")
    first_run_id: Mapped[UUID] = mapped_column(ForeignKey("reconciliation_runs.id"))
    last_run_id: Mapped[UUID] = mapped_column(ForeignKey("reconciliation_runs.id"))
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
