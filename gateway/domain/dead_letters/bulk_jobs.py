"""Jobs that replay or discard many dead letters, in bounded steps.

A step is one database transaction. It locks the job's row, so two workers never take the same step, and counts what it
did. If a worker dies during a step, the step is rolled back, and another worker takes it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from loguru import logger
from sqlalchemy import Connection, Row, func, insert, select, text, update

from gateway.domain.dead_letters import resolution
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.domain.shared import audit, outbox
from gateway.domain.shared.listing import newest
from gateway.domain.shared.outbox import Topic
from gateway.errors import InvalidState, NotFound, TooManyJobs
from gateway.ids import new_id, parse_id, rfc3339
from gateway.models.dead_letter_jobs import DeadLetterJob
from gateway.models.dead_letters import DeadLetter
from gateway.states import DeadLetterStatus, JobStatus
from gateway.telemetry import log_context

Action = Literal["replay", "discard"]
JOBS_RUNNING_MAX = 20
"""Maximum number of jobs that run at the same time."""
ADVISORY_LOCK = 7_205_020
"""The advisory lock that serializes the check of `JOBS_RUNNING_MAX`."""
STEP_SECONDS = 1
"""The interval of steps. A step resolves the number of dead letters that the job may resolve in this time."""

_J = DeadLetterJob
_TABLE = DeadLetterJob.__table__


@dataclass(frozen=True, slots=True)
class NewJob:
    """A request for a job. The status in `filters` is not used: only open dead letters are resolved."""

    action: Action
    filters: DeadLetterFilter
    note: str | None
    dry_run: bool
    max_per_second: int


def create(connection: Connection, job: NewJob, actor: str, request_id: str) -> dict[str, Any]:
    """Count the matching dead letters, and start the job unless it is a dry run; return the job.

    Raises:
        TooManyJobs: `JOBS_RUNNING_MAX` are running.
    """
    job_id = new_id()
    matching = select(func.count()).select_from(DeadLetter).where(*_open(job.filters), DeadLetter.id <= job_id)
    count = connection.scalar(matching) or 0
    ends = job.dry_run or count == 0
    if not ends:
        _refuse_too_many(connection)
    row = connection.execute(
        insert(_J)
        .values(
            id=job_id,
            action=job.action,
            filter=_as_json(job.filters),
            note=job.note,
            dry_run=job.dry_run,
            max_per_second=job.max_per_second,
            status=(JobStatus.COMPLETED if ends else JobStatus.RUNNING).value,
            count=count,
            requested_by=actor,
            request_id=request_id,
            finished_at=text("now()") if ends else None,
        )
        .returning(*_TABLE.columns)
    ).one()
    if not job.dry_run:
        detail = {"action": job.action, "filter": row.filter, "count": count, "note": job.note}
        audit.record(connection, actor=actor, action="dead_letter_job.created", subject=str(job_id), detail=detail)
    if not ends:
        outbox.enqueue(connection, Topic.DEAD_LETTER_JOB_DUE, [job_id])
    return _represent(row)


def _refuse_too_many(connection: Connection) -> None:
    connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
    running = select(func.count()).select_from(DeadLetterJob).where(_J.status == JobStatus.RUNNING)
    if connection.execute(running).scalar_one() >= JOBS_RUNNING_MAX:
        raise TooManyJobs(f"{JOBS_RUNNING_MAX} jobs are running.")


_DUE = text("""
    SELECT *, next_step_at <= clock_timestamp() AS due FROM dead_letter_jobs
    WHERE id = :id AND status = 'running' FOR UPDATE SKIP LOCKED
""")


def take_step(connection: Connection, job_id: UUID) -> bool:
    """Resolve the next dead letters of a job if its next step is due; return whether there may be more to do."""
    job = connection.execute(_DUE, {"id": job_id}).one_or_none()
    if job is None:
        return False  # it has ended, or another worker takes this step and continues
    if not job.due:
        return True
    ids = _next(connection, job)
    resolve = resolution.replay_all if job.action == "replay" else resolution.discard_all
    done = len(resolve(connection, ids, job.requested_by, job.note)) if ids else 0
    ends = len(ids) < _step_size(job)
    connection.execute(
        update(_J)
        .where(_J.id == job_id, _J.status == JobStatus.RUNNING)
        .values(
            done=_J.done + done,
            failed=_J.failed + len(ids) - done,
            position=ids[-1] if ids else job.position,
            status=(JobStatus.COMPLETED if ends else JobStatus.RUNNING).value,
            finished_at=func.now() if ends else None,
            next_step_at=func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, STEP_SECONDS),
        )
    )
    with log_context(request_id=job.request_id):
        logger.info("job {}: {} of {} dead letters resolved by {}", job_id, done, len(ids), job.action)
    return not ends


def cancel(connection: Connection, job_id: UUID, actor: str) -> dict[str, Any]:
    """Cancel a job after its current step; return it. Resolved dead letters stay resolved.

    Raises:
        NotFound: there is none with this id.
        InvalidState: it has ended.
    """
    row = connection.execute(
        update(_J)
        .where(_J.id == job_id, _J.status == JobStatus.RUNNING)
        .values(status=JobStatus.CANCELED.value, finished_at=func.now())
        .returning(*_TABLE.columns)
    ).one_or_none()
    if row is None:
        raise InvalidState(f"This job is already {find(connection, job_id)['status']}.")
    detail = {"done": row.done, "failed": row.failed}
    audit.record(connection, actor=actor, action="dead_letter_job.canceled", subject=str(job_id), detail=detail)
    return _represent(row)


def list_newest(connection: Connection, before: UUID | None, limit: int) -> Sequence[dict[str, Any]]:
    """Return at most `limit` jobs older than `before`, newest first."""
    return [_represent(row) for row in connection.execute(newest(select(_TABLE), _J.id, before, limit))]


def find(connection: Connection, job_id: UUID) -> dict[str, Any]:
    """Return one job.

    Raises:
        NotFound: there is none with this id.
    """
    row = connection.execute(select(_TABLE).where(_J.id == job_id)).one_or_none()
    if row is None:
        raise NotFound
    return _represent(row)


_STALE = text("""
    UPDATE dead_letter_jobs SET next_step_at = now() WHERE id = ANY (ARRAY(
        SELECT id FROM dead_letter_jobs j
        WHERE status = 'running' AND next_step_at < now() - make_interval(secs => :seconds)
          AND NOT EXISTS (SELECT FROM outbox o WHERE o.subject_id = j.id)
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED))
    RETURNING id
""")


def enqueue_stale(connection: Connection, seconds: int, limit: int) -> int:
    """Requeue jobs without a step for `seconds`, whose message was lost with its worker; return their number."""
    ids = list(connection.scalars(_STALE, {"seconds": seconds, "limit": limit}))
    outbox.enqueue(connection, Topic.DEAD_LETTER_JOB_DUE, ids)
    return len(ids)


def _open(filters: DeadLetterFilter) -> list[Any]:
    return [DeadLetter.status == DeadLetterStatus.OPEN, *filters.conditions()]


def _step_size(job: Row[*tuple[Any, ...]]) -> int:
    size: int = job.max_per_second * STEP_SECONDS
    return size


def _next(connection: Connection, job: Row[*tuple[Any, ...]]) -> list[UUID]:
    query = select(DeadLetter.id).where(*_open(_of_json(job.filter)), DeadLetter.id <= job.id)
    if job.position is not None:
        query = query.where(DeadLetter.id > job.position)
    return list(connection.scalars(query.order_by(DeadLetter.id).limit(_step_size(job))))


def _as_json(filters: DeadLetterFilter) -> dict[str, Any]:
    return {
        name: rfc3339(value) if isinstance(value, datetime) else str(value)
        for name, value in asdict(filters).items()
        if value is not None
    }


def _of_json(stored: dict[str, Any]) -> DeadLetterFilter:
    values = dict(stored)
    if "merchant_id" in values:
        values["merchant_id"] = parse_id(values["merchant_id"])
    for name in values.keys() & {"dead_lettered_from", "dead_lettered_to"}:
        values[name] = datetime.fromisoformat(values[name])
    return DeadLetterFilter(**values)


def _represent(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    plain = ("action", "filter", "note", "dry_run", "max_per_second", "status", "count", "done", "failed")
    completed = row.status == JobStatus.COMPLETED and not row.dry_run
    return {
        "id": str(row.id),
        "object": "dead_letter_job",
        **{name: row._mapping[name] for name in plain},
        "skipped": max(row.count - row.done - row.failed, 0) if completed else 0,
        "requested_by": row.requested_by,
        "created_at": rfc3339(row.created_at),
        "finished_at": rfc3339(row.finished_at) if row.finished_at else None,
    }
