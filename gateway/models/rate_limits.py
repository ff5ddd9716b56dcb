"""The token buckets that all API processes share."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base


class RateLimit(Base):
    """One bucket. Processes lease its tokens in blocks; a crash of the database may empty the table without harm."""

    __tablename__ = "rate_limits"
    __table_args__ = (CheckConstraint("tokens >= 0", name="tokens"), {"prefixes": ["UNLOGGED"]})

    subject: Mapped[str] = mapped_column(primary_key=True)
    tokens: Mapped[float]
    granted: Mapped[int]
    """What the last lease got."""
    pacing: Mapped[bool]
    """The subject ran into its limit, and the bucket has not been full since."""
    refilled_at: Mapped[datetime]
