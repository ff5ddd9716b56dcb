"""Dead letters: store the messages that the broker dead-lettered, and run the jobs that resolve many of them."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.domain.dead_letters import bulk_jobs, intake
from gateway.domain.dead_letters.bulk_jobs import STEP_SECONDS as JOB_STEP_SECONDS
from gateway.domain.dead_letters.intake import DeadMessage, Stored
from gateway.domain.shared.failures import EXPIRED
from gateway.telemetry import DEAD_LETTERS, REQUEUED

__all__ = ["EXPIRED", "JOB_STEP_SECONDS", "DeadMessage", "Stored", "run_job_step", "store"]


def store(messages: Sequence[DeadMessage]) -> Stored:
    """Store dead messages in one commit, and count them."""
    with db.begin() as connection:
        stored = intake.store(connection, messages)
    for queue, reason in stored.dead:
        DEAD_LETTERS.labels(queue, reason).inc()
    REQUEUED.labels("monitor").inc(len(stored.requeued))
    return stored


def run_job_step(job_id: UUID) -> bool:
    """Run the next step of a job if it is due; return whether there may be more steps."""
    with db.begin() as connection:
        return bulk_jobs.take_step(connection, job_id)
