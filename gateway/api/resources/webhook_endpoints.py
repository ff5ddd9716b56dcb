"""Webhook endpoints, and the deliveries of events to them."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.api.http.validation import RequestModel
from gateway.config import settings
from gateway.domain.webhooks import delivery_queries
from gateway.domain.webhooks import endpoints as webhook_endpoints
from gateway.errors import TooManyEndpoints
from gateway.security import public_http
from gateway.security.public_http import URL_MAX_LENGTH, ForbiddenUrl
from gateway.states import DeliveryStatus, EndpointStatus, EventType

ALL_EVENTS = "*"

routes = Routes("Webhooks")


def _callable_url(url: str) -> str:
    try:
        public_http.check_url(url, allow_loopback=settings().webhook_allow_loopback)
    except ForbiddenUrl as exc:
        raise PydanticCustomError("invalid_url", "{reason}", {"reason": str(exc)}) from None
    return url


def _expanded(value: Any) -> Any:
    return [type.value for type in EventType] if value == [ALL_EVENTS] else value


def _without_duplicates(events: list[EventType]) -> list[EventType]:
    return list(dict.fromkeys(events))


Url = Annotated[
    str,
    Field(
        max_length=URL_MAX_LENGTH,
        description="The https URL that receives the events: a public address, without a user name or a fragment",
        examples=["https://example.com/webhooks"],
    ),
    AfterValidator(_callable_url),
]
Subscription = Annotated[
    list[EventType],
    Field(
        min_length=1,
        max_length=2 * len(EventType),
        description='The types of events to send; `["*"]` means all types that exist now',
        examples=[[EventType.TRANSACTION_COMPLETED.value]],
    ),
    AfterValidator(_without_duplicates),
    BeforeValidator(_expanded),
]


class WebhookEndpointRequest(RequestModel):
    """A URL, and the types of events to send to it."""

    url: Url
    events: Subscription


class WebhookEndpointChange(RequestModel):
    """The fields to change."""

    url: Url | None = None
    events: Subscription | None = None
    status: Annotated[
        EndpointStatus | None,
        Field(
            description="`disabled` cancels all pending deliveries; `enabled` also enables an endpoint that was "
            "disabled because it responded with 410"
        ),
    ] = None


class WebhookEndpoint(ResponseModel):
    """A URL that receives the events of a merchant. Its secret is not shown again."""

    id: Id
    object: Literal["webhook_endpoint"]
    url: str
    events: list[EventType]
    status: EndpointStatus
    disabled_reason: str | None
    created_at: Timestamp
    updated_at: Timestamp


class NewWebhookEndpoint(WebhookEndpoint):
    """A webhook endpoint with its new secret, which is shown only in this response."""

    secret: Annotated[
        str,
        Field(
            pattern=r"^whsec_[A-Za-z0-9+/]+=*$",
            description="Pass it to a Standard Webhooks library to verify signatures",
        ),
    ]


class WebhookDelivery(ResponseModel):
    """The delivery of an event to a webhook endpoint."""

    id: Id
    object: Literal["webhook_delivery"]
    endpoint_id: Id
    event_id: Id
    event_type: str
    status: Annotated[
        DeliveryStatus,
        Field(
            description="`pending`: not delivered yet. `succeeded`: the endpoint responded with 2xx. `exhausted`: all "
            "attempts failed. `canceled`: the endpoint was disabled or deleted"
        ),
    ]
    attempts: int
    next_attempt_at: Timestamp | None
    last_attempt_at: Timestamp | None
    response_status: Annotated[
        int | None, Field(description="HTTP status of the last attempt; null without a response")
    ]
    last_error: Annotated[str | None, Field(description="Why the last attempt failed")]
    created_at: Timestamp
    finished_at: Timestamp | None


class WebhookDeliveryQuery(ListQuery):
    """Filters of deliveries."""

    status: DeliveryStatus | None = None


@routes.post(
    "/v1/webhook-endpoints",
    scope="webhooks:manage",
    responses={201: NewWebhookEndpoint},
    errors=(TooManyEndpoints,),
)
def create_webhook_endpoint(context: RequestContext, body: WebhookEndpointRequest) -> ApiResponse:
    """Create a webhook endpoint.

    The response contains the secret with which its events are signed. The secret is not shown again.
    """
    with db.begin() as connection:
        created = webhook_endpoints.create(connection, context.merchant_id, body.url, body.events, context.actor)
    return ApiResponse(created, 201, {"Location": f"/v1/webhook-endpoints/{created['id']}"})


@routes.get("/v1/webhook-endpoints", scope="webhooks:manage", responses={200: page_of(WebhookEndpoint)})
def list_webhook_endpoints(context: RequestContext, query: ListQuery) -> ApiResponse:
    """List webhook endpoints, newest first."""
    return list_response("webhook_endpoint", query, webhook_endpoints.list_newest, context.merchant_id)


@routes.get("/v1/webhook-endpoints/<id>", scope="webhooks:manage", responses={200: WebhookEndpoint})
def get_webhook_endpoint(context: RequestContext, id: UUID) -> ApiResponse:
    """Retrieve a webhook endpoint."""
    with db.autocommit() as connection:
        return ApiResponse(webhook_endpoints.find(connection, context.merchant_id, id))


@routes.patch("/v1/webhook-endpoints/<id>", scope="webhooks:manage", responses={200: WebhookEndpoint})
def change_webhook_endpoint(context: RequestContext, id: UUID, body: WebhookEndpointChange) -> ApiResponse:
    """Update the URL, the events or the status of a webhook endpoint."""
    with db.begin() as connection:
        changed = webhook_endpoints.change(
            connection,
            context.merchant_id,
            id,
            url=body.url,
            events=body.events,
            status=body.status,
            actor=context.actor,
        )
    return ApiResponse(changed)


@routes.delete("/v1/webhook-endpoints/<id>", scope="webhooks:manage", responses={204: None})
def delete_webhook_endpoint(context: RequestContext, id: UUID) -> ApiResponse:
    """Delete a webhook endpoint. Its pending deliveries are canceled."""
    with db.begin() as connection:
        webhook_endpoints.delete(connection, context.merchant_id, id, context.actor)
    return ApiResponse(status=204)


@routes.post("/v1/webhook-endpoints/<id>/rotate-secret", scope="webhooks:manage", responses={200: NewWebhookEndpoint})
def rotate_webhook_secret(context: RequestContext, id: UUID) -> ApiResponse:
    """Rotate the secret of a webhook endpoint.

    The response contains the new secret, which is not shown again. For 24 hours, events are also signed with the
    previous secret.
    """
    with db.begin() as connection:
        return ApiResponse(webhook_endpoints.rotate_secret(connection, context.merchant_id, id, context.actor))


@routes.get("/v1/webhook-endpoints/<id>/deliveries", scope="webhooks:manage", responses={200: page_of(WebhookDelivery)})
def list_webhook_deliveries(context: RequestContext, id: UUID, query: WebhookDeliveryQuery) -> ApiResponse:
    """List the deliveries to a webhook endpoint, newest first."""
    return list_response("webhook_delivery", query, delivery_queries.list_newest, context.merchant_id, id, query.status)
