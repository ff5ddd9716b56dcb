"""Jobs on many dead letters, step by step, on the `operations` queue."""

from gateway.domain.dead_letters.bulk_jobs import STEP_SECONDS
from gateway.flows import dead_letters
from gateway.telemetry import log_context
from tasks import app
from tasks.base import TRANSIENT, GatewayTask, parse_ids


@app.task(name="operations.resolve_dead_letters", base=GatewayTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def take_step(self: GatewayTask, ids: object) -> None:
    """Take a step of each job; those that go on come again after `STEP_SECONDS`, so that no process is kept waiting."""
    with log_context(task_id=self.request.id):
        for job_id in parse_ids(ids):
            if dead_letters.take_step(job_id):
                self.send_on([job_id], retries=0, countdown=STEP_SECONDS)
