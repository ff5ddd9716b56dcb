"""Taking the steps of jobs on many dead letters."""

from uuid import UUID

from gateway import db
from gateway.domain.dead_letters import bulk_jobs


def take_step(job_id: UUID) -> bool:
    """Take a job's next step, if it is due; whether there may be more to do."""
    with db.begin() as connection:
        return bulk_jobs.take_step(connection, job_id)
