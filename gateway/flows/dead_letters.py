"""Store dead messages, and take the steps of jobs that resolve dead letters."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.domain.dead_letters import bulk_jobs, intake
from gateway.domain.dead_letters.intake import DeadMessage, Stored


def store(messages: Sequence[DeadMessage]) -> Stored:
    """Store dead messages as dead letters, or requeue what they name, in one commit."""
    with db.begin() as connection:
        return intake.store(connection, messages)


def take_step(job_id: UUID) -> bool:
    """Take the next step of a job if it is due; return whether there may be more to do."""
    with db.begin() as connection:
        return bulk_jobs.take_step(connection, job_id)
