"""The token buckets that all API processes share."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base


class RateLimit(Base):
    """One bucket, whose tokens processes lease in blocks. A crash of PostgreSQL may empty the table harmlessly."""

    __tablename__ = "rate_limits"
    __table_args__ = (CheckConstraint("tokens >= 0", name="tokens"), {"prefixes": ["UNLOGGED"]})

    subject: Mapped[str] = mapped_column(primary_key=True)
    tokens: Mapped[float]
    granted: Mapped[int]
    """The number of tokens of the last lease."""
    pacing: Mapped[bool]
    """The subject reached its limit, and the bucket has not been full since."""
    refilled_at: Mapped[datetime]
