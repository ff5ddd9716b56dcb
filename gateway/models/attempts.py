"""Attempts at charges and refunds."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from gateway.models.base import Base, one_of
from gateway.states import AttemptOutcome


class _AttemptColumns:
    """The columns of every attempt. The row is written before the call, as the claim of one worker.

    If there is no `outcome` after `lease_until`, the worker died, and it is unknown what the provider did.
    """

    number: Mapped[int] = mapped_column(primary_key=True)
    provider: Mapped[str]
    task_id: Mapped[str]
    started_at: Mapped[datetime]
    lease_until: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    code: Mapped[str | None]
    message: Mapped[str | None]

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[CheckConstraint, ...]:
        return (
            one_of("outcome", AttemptOutcome),
            CheckConstraint("number >= 1", name="number"),
            CheckConstraint("(outcome IS NULL) = (finished_at IS NULL)", name="finished"),
        )


class ChargeAttempt(_AttemptColumns, Base):
    """One attempt at a charge."""

    __tablename__ = "charge_attempts"

    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"), primary_key=True, sort_order=-1)


class RefundAttempt(_AttemptColumns, Base):
    """One attempt at a refund."""

    __tablename__ = "refund_attempts"

    refund_id: Mapped[UUID] = mapped_column(ForeignKey("refunds.id"), primary_key=True, sort_order=-1)
