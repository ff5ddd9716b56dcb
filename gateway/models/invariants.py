"""The results of the last check of each invariant."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base


class InvariantCheck(Base):
    """One row per invariant: its last check, and since when it is broken. `sample` lists offending rows."""

    __tablename__ = "invariant_checks"
    __table_args__ = (
        CheckConstraint("violations >= 0", name="violations"),
        CheckConstraint("(violations > 0) = (broken_since IS NOT NULL)", name="broken"),
        CheckConstraint("alerted_at IS NULL OR violations > 0", name="alerted"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    checked_at: Mapped[datetime]
    violations: Mapped[int]
    sample: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    broken_since: Mapped[datetime | None]
    alerted_at: Mapped[datetime | None]
