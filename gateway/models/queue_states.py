"""The state of each work queue: whether it accepts messages, and whether they are consumed."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base


class QueueState(Base):
    """One row per work queue: the relay's last observation, and the time when a worker last consumed a message.

    `waiting_since` is the publishing time of a message that has not been consumed; it is void if `taken_at` is later.
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
