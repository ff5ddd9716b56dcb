"""Events: the changes of a merchant's objects, whether or not they were sent to an endpoint."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter, TimestampParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
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
    """A change of an object, with the object as it was after the change."""

    id: Id
    object: Literal["event"]
    type: Annotated[EventType, Field(description="The kind of change")]
    created_at: Timestamp
    data: Annotated[
        Transaction | Refund | Settlement, Field(discriminator="object", description="The object after the change")
    ]


class EventQuery(ListQuery):
    """Filters of events."""

    type: EventType | None = None
    created_from: TimestampParameter | None = None
    created_to: TimestampParameter | None = None


class ResendRequest(RequestModel):
    """The webhook endpoint to which an event is sent again."""

    endpoint_id: Annotated[
        IdParameter | None,
        Field(description="The webhook endpoint; by default, every enabled endpoint that subscribes to the type"),
    ] = None


class ResentEvent(ResponseModel):
    """The pending deliveries of an event, one per endpoint; none if no enabled endpoint subscribes to its type."""

    data: Annotated[list[WebhookDelivery], Field(description="The pending deliveries")]


@routes.get("/v1/events", scope="webhooks:manage", responses={200: page_of(Event)})
def list_events(context: RequestContext, query: EventQuery) -> ApiResponse:
    """List events, newest first."""
    return list_response("event", query, event_queries.list_newest, context.merchant_id, EventFilter(**query.filters()))


@routes.get("/v1/events/<id>", scope="webhooks:manage", responses={200: Event})
def get_event(context: RequestContext, id: UUID) -> ApiResponse:
    """Retrieve an event."""
    with db.autocommit() as connection:
        return ApiResponse(event_queries.find(connection, context.merchant_id, id))


@routes.post("/v1/events/<id>/resend", scope="webhooks:manage", responses={202: ResentEvent}, errors=(InvalidState,))
def resend_event(context: RequestContext, id: UUID, body: ResendRequest) -> ApiResponse:
    """Send an event again, with the same `webhook-id` and the same body.

    An event has at most one pending delivery for each endpoint. If there is one already, it is returned, and its next
    attempt is made immediately.
    """
    with db.begin() as connection:
        deliveries = delivery_queries.resend(connection, context.merchant_id, id, body.endpoint_id)
    return ApiResponse({"data": list(deliveries)}, 202)
