"""Whether each queue takes messages and gives them out."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base


class QueueState(Base):
    """One row per work queue: what the relay found when it looked last, and when a worker last took a message.

    `waiting_since` is when a message was put there that nobody has taken yet; with a later `taken_at` it means nothing.
    """

    __tablename__ = "queue_states"
    __table_args__ = (CheckConstraint("(failing_since IS NULL) = (reason IS NULL)", name="failing"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    checked_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    reason: Mapped[str | None]
    consumers: Mapped[int | None] = mapped_column(BigInteger)
    waiting_since: Mapped[datetime | None]
    taken_at: Mapped[datetime | None]
