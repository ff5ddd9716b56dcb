"""Replaying or discarding many dead letters over HTTP, for operators: as a job that can be followed and stopped."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter, TimestampParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp
from gateway.api.http.validation import RequestModel
from gateway.api.resources.dead_letters import NAME_MAX_LENGTH, NOTE_MAX_LENGTH
from gateway.domain.dead_letters import bulk_jobs
from gateway.domain.dead_letters.bulk_jobs import NewJob
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.errors import InvalidState, TooManyJobs

RATE_DEFAULT, RATE_MAX = 50, 1_000

routes = Routes("Dead letters")


class BulkFilter(RequestModel):
    """Which open dead letters to resolve; all that it names must hold. Times are inclusive from, exclusive to."""

    status: Annotated[
        Literal["open"] | None, Field(description="Others are resolved already; may be left out", examples=["open"])
    ] = None
    queue: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH, examples=["settlement.requested"])] = None
    reason: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH, examples=["rejected"])] = None
    merchant_id: IdParameter | None = None
    dead_lettered_from: TimestampParameter | None = None
    dead_lettered_to: TimestampParameter | None = None


class BulkOrder(RequestModel):
    """What to do with many dead letters, and how fast."""

    action: Literal["replay", "discard"]
    filter: Annotated[BulkFilter, Field(description="`{}` takes every open dead letter")]
    note: Annotated[str | None, Field(max_length=NOTE_MAX_LENGTH, description="Kept with each of them")] = None
    dry_run: Annotated[bool, Field(description="Only count")] = False
    max_per_second: Annotated[int, Field(ge=1, le=RATE_MAX)] = RATE_DEFAULT


class DeadLetterJob(ResponseModel):
    """A job on many dead letters. It is `running` until it has `completed`, or was `canceled`."""

    id: Id
    object: Literal["dead_letter_job"]
    action: Literal["replay", "discard"]
    filter: dict[str, str]
    note: str | None
    dry_run: bool
    max_per_second: int
    status: Literal["running", "completed", "canceled"]
    count: Annotated[int, Field(description="Open dead letters that matched when the job was made")]
    done: Annotated[int, Field(description="How many of them it has resolved")]
    failed: Annotated[
        int,
        Field(description="How many stay open: nothing to replay, or to be discarded though the provider approved it"),
    ]
    skipped: Annotated[int, Field(description="How many somebody else resolved before the job came to them")]
    requested_by: Annotated[str, Field(examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    created_at: Timestamp
    finished_at: Timestamp | None


class DeadLetterJobPage(ResponseModel):
    """Jobs, newest first."""

    data: list[DeadLetterJob]
    next_cursor: str | None


@routes.post("/v1/dead-letters/bulk", scope="operations:write", responses={202: DeadLetterJob}, errors=(TooManyJobs,))
def create_dead_letter_job(context: RequestContext, body: BulkOrder) -> ApiResponse:
    """Replay or discard many dead letters.

    A job does it, a few each second; follow it at its `Location`. Dead letters that come later are none of its.
    """
    wanted = DeadLetterFilter(**body.filter.model_dump(exclude={"status"}))
    job = NewJob(body.action, wanted, body.note, body.dry_run, body.max_per_second)
    with db.begin() as connection:
        made = bulk_jobs.create(connection, job, context.actor, context.request_id)
    return ApiResponse(made, 202, headers={"Location": f"/v1/dead-letters/bulk/{made['id']}"})


@routes.get("/v1/dead-letters/bulk", scope="operations:read", responses={200: DeadLetterJobPage})
def list_dead_letter_jobs(query: ListQuery) -> ApiResponse:
    """List jobs on dead letters, newest first."""
    return list_response("dead_letter_job", query, bulk_jobs.list_newest)


@routes.get("/v1/dead-letters/bulk/<id>", scope="operations:read", responses={200: DeadLetterJob})
def get_dead_letter_job(id: UUID) -> ApiResponse:
    """Read a job on dead letters."""
    with db.autocommit() as connection:
        return ApiResponse(bulk_jobs.find(connection, id))


@routes.post(
    "/v1/dead-letters/bulk/<id>/cancel",
    scope="operations:write",
    responses={200: DeadLetterJob},
    errors=(InvalidState,),
)
def cancel_dead_letter_job(context: RequestContext, id: UUID) -> ApiResponse:
    """Stop a job on dead letters; what it has resolved stays resolved."""
    with db.begin() as connection:
        return ApiResponse(bulk_jobs.cancel(connection, id, context.actor))
