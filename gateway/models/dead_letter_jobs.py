"""Jobs that resolve many dead letters at a bounded rate."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.models.base import Base, CreatedAt, Id, Json, one_of
from gateway.states import JobStatus

ACTIONS = ("replay", "discard")


class DeadLetterJob(Base):
    """A job that replays or discards all open dead letters that match a filter.

    It handles them in the order of their ids, from `position` (exclusive) to its own id. Later dead letters are not
    included, such as those of payments that were dead-lettered again after this job replayed them. `next_step_at`
    limits the rate.
    """

    __tablename__ = "dead_letter_jobs"
    __table_args__ = (
        one_of("action", ACTIONS),
        one_of("status", JobStatus),
        CheckConstraint("count >= 0 AND done >= 0 AND failed >= 0 AND max_per_second > 0", name="counters"),
        CheckConstraint("(status = 'running') = (finished_at IS NULL)", name="finished"),
        Index("ix_dead_letter_jobs_running", "next_step_at", postgresql_where=text("status = 'running'")),
    )

    id: Mapped[Id]
    action: Mapped[str]
    filter: Mapped[Json]
    note: Mapped[str | None]
    dry_run: Mapped[bool]
    max_per_second: Mapped[int]
    status: Mapped[str]
    count: Mapped[int]
    done: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    position: Mapped[UUID | None]
    requested_by: Mapped[str]
    request_id: Mapped[str]
    created_at: Mapped[CreatedAt]
    next_step_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]
