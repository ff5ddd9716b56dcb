"""Dead letters, for operators: list, replay and discard them."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter, TimestampParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.api.http.validation import RequestModel
from gateway.domain.dead_letters import resolution
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.errors import AlreadyResolved, InvalidState
from gateway.states import DeadLetterStatus

NAME_MAX_LENGTH = 255
NOTE_MAX_LENGTH = 500

routes = Routes("Dead letters")


class DeadLetter(ResponseModel):
    """A payment, a refund or a message that the pipeline could not process and that waits for an operator."""

    id: Id
    object: Literal["dead_letter"]
    queue: Annotated[str, Field(description="The queue from which the message was dead-lettered")]
    task: Annotated[
        str | None, Field(description="The Celery task of the message; null if the message is not readable")
    ]
    transaction_id: Annotated[Id | None, Field(description="The transaction, if the message names one")]
    refund_id: Annotated[Id | None, Field(description="The refund; null if the payment itself is dead-lettered")]
    merchant_id: Id | None
    reason: Annotated[
        str,
        Field(
            description="`rejected`: all attempts failed. `expired`: the message was not consumed in time. "
            "`delivery_limit`: it was delivered too often. `in_doubt`: the outcome of the last attempt is unknown, so "
            "the provider may have executed it"
        ),
    ]
    exception: Annotated[str | None, Field(description="The error of the last attempt")]
    attempts: Annotated[int, Field(description="Number of calls to the provider")]
    payload: Annotated[str, Field(description="The body of the message as it was received")]
    headers: Annotated[dict[str, Any], Field(description="The headers of the message")]
    status: DeadLetterStatus
    first_failed_at: Timestamp
    dead_lettered_at: Timestamp
    resolved_at: Timestamp | None
    resolved_by: Annotated[str | None, Field(description="Who replayed or discarded it")]
    note: str | None


class DeadLetterQuery(ListQuery):
    """Filters of dead letters."""

    status: DeadLetterStatus | None = None
    queue: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    reason: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    merchant_id: IdParameter | None = None
    dead_lettered_from: TimestampParameter | None = None
    dead_lettered_to: TimestampParameter | None = None


class DiscardRequest(RequestModel):
    """The reason for discarding a dead letter."""

    note: Annotated[str | None, Field(max_length=NOTE_MAX_LENGTH, examples=["The customer paid in the shop."])] = None


@routes.get("/v1/dead-letters", scope="operations:read", responses={200: page_of(DeadLetter)})
def list_dead_letters(query: DeadLetterQuery) -> ApiResponse:
    """List dead letters, newest first."""
    return list_response("dead_letter", query, resolution.list_newest, DeadLetterFilter(**query.filters()))


@routes.get("/v1/dead-letters/<id>", scope="operations:read", responses={200: DeadLetter})
def get_dead_letter(id: UUID) -> ApiResponse:
    """Retrieve a dead letter."""
    with db.autocommit() as connection:
        return ApiResponse(resolution.find(connection, id))


@routes.post(
    "/v1/dead-letters/<id>/replay",
    scope="operations:write",
    responses={200: DeadLetter},
    errors=(AlreadyResolved, InvalidState),
)
def replay_dead_letter(context: RequestContext, id: UUID) -> ApiResponse:
    """Replay a dead letter: its payment or refund is processed again, with a new set of attempts.

    If the outcome of an earlier attempt is unknown, the provider is queried for it before anything is sent again.
    """
    with db.begin() as connection:
        return ApiResponse(resolution.replay(connection, id, context.actor))


@routes.post(
    "/v1/dead-letters/<id>/discard",
    scope="operations:write",
    responses={200: DeadLetter},
    errors=(AlreadyResolved, InvalidState),
)
def discard_dead_letter(context: RequestContext, id: UUID, body: DiscardRequest) -> ApiResponse:
    """Discard a dead letter: its payment or refund moves to `failed`, with the category `discarded`.

    If the provider has approved the payment or refund in the meantime, it can only be replayed.
    """
    with db.begin() as connection:
        return ApiResponse(resolution.discard(connection, id, context.actor, body.note))
