"""Dead letters over HTTP, for operators: look at them, replay them, discard them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway import db
from gateway.api.http.paging import Page, list_page
from gateway.api.http.parameters import IdParameter, Moment
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Id, Time
from gateway.api.http.validation import RequestModel
from gateway.domain.dead_letters import resolution
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.errors import AlreadyResolved, InvalidState
from gateway.states import DeadLetterStatus

NAME_MAX_LENGTH = 255
NOTE_MAX_LENGTH = 500

routes = Routes("Dead letters")


class DeadLetter(AnswerModel):
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
    first_failed_at: Time
    dead_lettered_at: Time
    resolved_at: Time | None
    resolved_by: str | None
    note: str | None


class DeadLetterPage(AnswerModel):
    """Dead letters, newest first."""

    data: list[DeadLetter]
    next_cursor: str | None


class DeadLetterQuery(Page):
    """Which dead letters to list. Times are inclusive from, exclusive to."""

    status: DeadLetterStatus | None = None
    queue: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    reason: Annotated[str | None, Field(max_length=NAME_MAX_LENGTH)] = None
    merchant_id: IdParameter | None = None
    dead_lettered_from: Moment | None = None
    dead_lettered_to: Moment | None = None

    def as_filter(self) -> DeadLetterFilter:
        """What the domain is asked for."""
        return DeadLetterFilter(**self.model_dump(exclude={"limit", "cursor"}))


class Discard(RequestModel):
    """Why a dead letter is given up."""

    note: Annotated[str | None, Field(max_length=NOTE_MAX_LENGTH, examples=["The customer paid in the shop."])] = None


@routes.get("/v1/dead-letters", scope="operations:read", answers={200: DeadLetterPage})
def list_dead_letters(call: Call, query: DeadLetterQuery) -> Reply:  # noqa: ARG001
    """List dead letters, newest first."""
    with db.autocommit() as connection:
        page = list_page(
            "dead_letter",
            query,
            lambda before, limit: resolution.list_newest(connection, query.as_filter(), before, limit),
        )
    return Reply(page)


@routes.get("/v1/dead-letters/<id>", scope="operations:read", answers={200: DeadLetter})
def get_dead_letter(call: Call, id: Any) -> Reply:  # noqa: ARG001
    """Read a dead letter."""
    with db.autocommit() as connection:
        return Reply(resolution.find(connection, id))


@routes.post(
    "/v1/dead-letters/<id>/replay",
    scope="operations:write",
    answers={200: DeadLetter},
    errors=(AlreadyResolved, InvalidState),
)
def replay_dead_letter(call: Call, id: Any) -> Reply:
    """Give the payment or refund a fresh set of attempts."""
    with db.begin() as connection:
        return Reply(resolution.replay(connection, id, call.actor))


@routes.post(
    "/v1/dead-letters/<id>/discard",
    scope="operations:write",
    answers={200: DeadLetter},
    errors=(AlreadyResolved, InvalidState),
)
def discard_dead_letter(call: Call, id: Any, body: Discard) -> Reply:
    """Give the payment or refund up: it moves to `failed`.

    One that the provider has approved meanwhile can only be replayed.
    """
    with db.begin() as connection:
        return Reply(resolution.discard(connection, id, call.actor, body.note))
