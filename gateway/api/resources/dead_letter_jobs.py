"""Jobs that replay or discard many dead letters, for operators."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter, TimestampParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.api.http.validation import RequestModel
from gateway.api.resources.dead_letters import NAME_MAX_LENGTH, NOTE_MAX_LENGTH
from gateway.domain.dead_letters import bulk_jobs
from gateway.domain.dead_letters.bulk_jobs import NewJob
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.errors import InvalidState, TooManyJobs
from gateway.states import JobStatus

RATE_DEFAULT, RATE_MAX = 50, 1_000
MAX_PER_SECOND = "Maximum number of dead letters that the job resolves per second"

Action = Annotated[Literal["replay", "discard"], Field(description="What to do with each dead letter")]
DryRun = Annotated[bool, Field(description="Count the dead letters that match, and resolve none of them")]

routes = Routes("Dead letters")


class DeadLetterJobFilter(RequestModel):
    """Filters of open dead letters, all of which must match. Times include `…_from` and exclude `…_to`."""

    status: Annotated[
        Literal["open"] | None, Field(description="May be omitted: only open ones can be resolved", examples=["open"])
    ] = None
    queue: Annotated[
        str | None,
        Field(
            max_length=NAME_MAX_LENGTH,
            description="The queue from which the message was dead-lettered",
            examples=["settlement.requested"],
        ),
    ] = None
    reason: Annotated[
        str | None,
        Field(max_length=NAME_MAX_LENGTH, description="The `reason` of the dead letter", examples=["rejected"]),
    ] = None
    merchant_id: IdParameter | None = None
    dead_lettered_from: TimestampParameter | None = None
    dead_lettered_to: TimestampParameter | None = None


class DeadLetterJobRequest(RequestModel):
    """An action for many dead letters, and its maximum rate."""

    action: Action
    filter: Annotated[DeadLetterJobFilter, Field(description="`{}` matches every open dead letter")]
    note: Annotated[
        str | None, Field(max_length=NOTE_MAX_LENGTH, description="Stored with each dead letter that the job resolves")
    ] = None
    dry_run: DryRun = False
    max_per_second: Annotated[int, Field(ge=1, le=RATE_MAX, description=MAX_PER_SECOND)] = RATE_DEFAULT


class DeadLetterJob(ResponseModel):
    """A job that replays or discards many dead letters."""

    id: Id
    object: Literal["dead_letter_job"]
    action: Action
    filter: Annotated[dict[str, str], Field(description="The filters of the request")]
    note: str | None
    dry_run: DryRun
    max_per_second: Annotated[int, Field(description=MAX_PER_SECOND)]
    status: JobStatus
    count: Annotated[int, Field(description="Open dead letters that matched when the job was created")]
    done: Annotated[int, Field(description="Dead letters that the job has resolved")]
    failed: Annotated[
        int,
        Field(
            description="Dead letters that stay open: there is nothing to replay, or the provider has approved what "
            "the job was to discard"
        ),
    ]
    skipped: Annotated[int, Field(description="Dead letters that somebody else resolved before the job reached them")]
    requested_by: Annotated[str, Field(examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    created_at: Timestamp
    finished_at: Timestamp | None


@routes.post("/v1/dead-letters/bulk", scope="operations:write", responses={202: DeadLetterJob}, errors=(TooManyJobs,))
def create_dead_letter_job(context: RequestContext, body: DeadLetterJobRequest) -> ApiResponse:
    """Replay or discard many dead letters.

    The response is a job that resolves them in the background, at most `max_per_second`. Retrieve it at its `Location`
    to follow its progress. The job includes only dead letters that are open when it is created.
    """
    wanted = DeadLetterFilter(**body.filter.model_dump(exclude={"status"}))
    job = NewJob(body.action, wanted, body.note, body.dry_run, body.max_per_second)
    with db.begin() as connection:
        created = bulk_jobs.create(connection, job, context.actor, context.request_id)
    return ApiResponse(created, 202, headers={"Location": f"/v1/dead-letters/bulk/{created['id']}"})


@routes.get("/v1/dead-letters/bulk", scope="operations:read", responses={200: page_of(DeadLetterJob)})
def list_dead_letter_jobs(query: ListQuery) -> ApiResponse:
    """List the jobs that resolve dead letters, newest first."""
    return list_response("dead_letter_job", query, bulk_jobs.list_newest)


@routes.get("/v1/dead-letters/bulk/<id>", scope="operations:read", responses={200: DeadLetterJob})
def get_dead_letter_job(id: UUID) -> ApiResponse:
    """Retrieve a job that resolves dead letters."""
    with db.autocommit() as connection:
        return ApiResponse(bulk_jobs.find(connection, id))


@routes.post(
    "/v1/dead-letters/bulk/<id>/cancel",
    scope="operations:write",
    responses={200: DeadLetterJob},
    errors=(InvalidState,),
)
def cancel_dead_letter_job(context: RequestContext, id: UUID) -> ApiResponse:
    """Cancel a job that resolves dead letters. What it has resolved stays resolved."""
    with db.begin() as connection:
        return ApiResponse(bulk_jobs.cancel(connection, id, context.actor))
