"""Dead letters over HTTP, for operators: look at them, replay them, discard them."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter, TimestampParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp
from gateway.api.http.validation import RequestModel
from gateway.domain.dead_letters import resolution
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.errors import AlreadyResolved, InvalidState
from gateway.states import DeadLetterStatus

NAME_MAX_LENGTH = 255
NOTE_MAX_LENGTH = 500

routes = Routes("Dead letters")


class DeadLetter(ResponseModel):
    """Work that ended outside its normal course and waits for an operator."""

    id: Id
    object: Literal["dead_letter"]
    queue: str
    task: str | None
    transaction_id: Id | None
    refund_id: Annotated[Id | None, Field(description="The refund that died; without one, the payment did")]
    merchant_id: Id | None
    reason: Annotated[
        str, Field(description="`rejected`, `expired`, `delivery_limit`, or `in_doubt`: the provider may have done it")
    ]
    exception: str | None
    attempts: int
    payload: Annotated[str, Field(description="The message's body as it came")]
    headers: dict[str, Any]
    status: Literal["open", "replayed", "discarded"]
    first_failed_at: Timestamp
    dead_lettered_at: Timestamp
    resolved_at: Timestamp | None
    resolved_by: str | None
    note: str | None


class DeadLetterPage(ResponseModel):
    """Dead letters, newest first."""

    data: list[DeadLetter]
    next_cursor: str | None


class DeadLetterQuery(ListQuery):
    """Which dead letters to list. Times are inclusive from, exclusive to."""

    status: DeadLetterStatus | None = None
    queue: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    reason: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    merchant_id: IdParameter | None = None
    dead_lettered_from: TimestampParameter | None = None
    dead_lettered_to: TimestampParameter | None = None

    def as_filter(self) -> DeadLetterFilter:
        """What the domain is asked for."""
        return DeadLetterFilter(**self.model_dump(exclude={"limit", "cursor"}))


class Discard(RequestModel):
    """Why a dead letter is given up."""

    note: Annotated[str | None, Field(max_length=NOTE_MAX_LENGTH, examples=["The customer paid in the shop."])] = None


@routes.get("/v1/dead-letters", scope="operations:read", responses={200: DeadLetterPage})
def list_dead_letters(query: DeadLetterQuery) -> ApiResponse:
    """List dead letters, newest first."""
    return list_response("dead_letter", query, resolution.list_newest, query.as_filter())


@routes.get("/v1/dead-letters/<id>", scope="operations:read", responses={200: DeadLetter})
def get_dead_letter(id: UUID) -> ApiResponse:
    """Read a dead letter."""
    with db.autocommit() as connection:
        return ApiResponse(resolution.find(connection, id))


@routes.post(
    "/v1/dead-letters/<id>/replay",
    scope="operations:write",
    responses={200: DeadLetter},
    errors=(AlreadyResolved, InvalidState),
)
def replay_dead_letter(context: RequestContext, id: UUID) -> ApiResponse:
    """Give the payment or refund a fresh set of attempts."""
    with db.begin() as connection:
        return ApiResponse(resolution.replay(connection, id, context.actor))


@routes.post(
    "/v1/dead-letters/<id>/discard",
    scope="operations:write",
    responses={200: DeadLetter},
    errors=(AlreadyResolved, InvalidState),
)
def discard_dead_letter(context: RequestContext, id: UUID, body: Discard) -> ApiResponse:
    """Give the payment or refund up: it moves to `failed`.

    One that the provider has approved meanwhile can only be replayed.
    """
    with db.begin() as connection:
        return ApiResponse(resolution.discard(connection, id, context.actor, body.note))
