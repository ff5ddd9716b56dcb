"""Jobs that resolve many dead letters, step by step, on the `operations` queue."""

from gateway.flows import dead_letters
from gateway.telemetry import log_context
from tasks import app
from tasks.base import GatewayTask, parse_ids


@app.task(name="operations.resolve_dead_letters", bind=True)
def run_job_step(self: GatewayTask, ids: object) -> None:
    """Run a step of each job; an unfinished job is republished with a delay, so that it does not occupy a process."""
    with log_context(task_id=self.request.id):
        for job_id in parse_ids(ids):
            if dead_letters.run_job_step(job_id):
                self.republish([job_id], retries=0, countdown=dead_letters.JOB_STEP_SECONDS)
