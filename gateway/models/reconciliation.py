"""Reconciliation runs and the discrepancies that they found."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base, Currency, Id, Json, MinorUnits, one_of
from gateway.states import DiscrepancyStatus, RunStatus

DISCREPANCY_KINDS = (
    "missing_settlement",
    "amount_mismatch",
    "currency_mismatch",
    "duplicate_settlement",
    "orphan_settlement",
    "ledger_imbalance",
    "stuck_processing",
    "missing_at_provider",
    "charged_not_settled",
    "duplicate_charge",
    "refunded_not_recorded",
    "unknown_to_us",
    "statement_amount_mismatch",
    "statement_currency_mismatch",
)
RESOLUTIONS = ("corrected", "accepted", "false_alarm", "other")
"""The ways in which an operator can resolve a discrepancy; the note explains `other`."""


class ReconciliationRun(Base):
    """One comparison of transactions with settlements and ledger over a period of completion times.

    While a run is pending, `started_at` is the time of the request.
    """

    __tablename__ = "reconciliation_runs"
    __table_args__ = (
        one_of("status", RunStatus),
        Index(None, "started_at"),
        Index("ix_reconciliation_runs_pending", "id", postgresql_where=text("status = 'pending'")),
    )

    id: Mapped[Id]
    status: Mapped[str] = mapped_column(server_default="running")
    period_from: Mapped[datetime | None]
    period_to: Mapped[datetime]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    counts: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    totals: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    error: Mapped[str | None]
    provider: Mapped[str | None]
    requested_by: Mapped[str | None]
    enqueued_at: Mapped[datetime | None]


class ReconciliationFinding(Base):
    """One discrepancy that one run found. A discrepancy that persists is found by several runs."""

    __tablename__ = "reconciliation_findings"
    __table_args__ = (Index(None, "discrepancy_id"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey("reconciliation_runs.id"), primary_key=True)
    discrepancy_id: Mapped[UUID] = mapped_column(ForeignKey("discrepancies.id"), primary_key=True)


class Discrepancy(Base):
    """One disagreement between records. If it is found again, the row gets a later `last_run_id`."""

    __tablename__ = "discrepancies"
    __table_args__ = (
        one_of("kind", DISCREPANCY_KINDS),
        one_of("status", DiscrepancyStatus),
        one_of("resolution", RESOLUTIONS),
        CheckConstraint("(status = 'resolved') = (resolved_at IS NOT NULL)", name="resolved"),
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
    resolution: Mapped[str | None]
    note: Mapped[str | None]
    resolved_by: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
