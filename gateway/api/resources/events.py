"""Events over HTTP: what happened to a merchant's objects, whether or not it was sent anywhere."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter, TimestampParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp
from gateway.api.http.validation import RequestModel
from gateway.api.resources.refunds import Refund
from gateway.api.resources.settlements import Settlement
from gateway.api.resources.transactions import Transaction
from gateway.api.resources.webhook_endpoints import WebhookDelivery
from gateway.domain.webhooks import delivery_queries, event_queries
from gateway.domain.webhooks.event_queries import EventFilter
from gateway.errors import InvalidState
from gateway.states import EventType

routes = Routes("Webhooks")


class Event(ResponseModel):
    """Something that happened to an object, with the object as it was then."""

    id: Id
    object: Literal["event"]
    type: Literal[tuple(str(type) for type in EventType)]  # type: ignore[valid-type]  # the enum's values
    created_at: Timestamp
    data: Annotated[Transaction | Refund | Settlement, Field(discriminator="object")]


class EventPage(ResponseModel):
    """Events, newest first."""

    data: list[Event]
    next_cursor: str | None


class EventQuery(ListQuery):
    """Which events to list. Times are inclusive from, exclusive to."""

    type: EventType | None = None
    created_from: TimestampParameter | None = None
    created_to: TimestampParameter | None = None

    def as_filter(self) -> EventFilter:
        """What the domain is asked for."""
        return EventFilter(**self.model_dump(exclude={"limit", "cursor"}))


class Resend(RequestModel):
    """Where an event is to be sent again; by default, to every enabled endpoint that asks for its type."""

    endpoint_id: IdParameter | None = None


class Resent(ResponseModel):
    """The pending deliveries of an event, one per endpoint; empty when no enabled endpoint subscribes to its type."""

    data: list[WebhookDelivery]


@routes.get("/v1/events", scope="webhooks:manage", responses={200: EventPage})
def list_events(context: RequestContext, query: EventQuery) -> ApiResponse:
    """List events, newest first."""
    return list_response("event", query, event_queries.list_newest, context.merchant_id, query.as_filter())


@routes.get("/v1/events/<id>", scope="webhooks:manage", responses={200: Event})
def get_event(context: RequestContext, id: UUID) -> ApiResponse:
    """Read an event."""
    with db.autocommit() as connection:
        return ApiResponse(event_queries.find(connection, context.merchant_id, id))


@routes.post("/v1/events/<id>/resend", scope="webhooks:manage", responses={202: Resent}, errors=(InvalidState,))
def resend_event(context: RequestContext, id: UUID, body: Resend) -> ApiResponse:
    """Send an event again, under the same `webhook-id` and with the same body.

    An event has at most one pending delivery per endpoint. If there is one, it is returned, and sent immediately if it
    waits for its next attempt.
    """
    with db.begin() as connection:
        deliveries = delivery_queries.resend(connection, context.merchant_id, id, body.endpoint_id)
    return ApiResponse({"data": list(deliveries)}, 202)
