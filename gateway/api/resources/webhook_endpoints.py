"""Webhook endpoints over HTTP: where a merchant wants events sent, and what was sent there."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp
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


def _each_once(events: list[EventType]) -> list[EventType]:
    return list(dict.fromkeys(events))


Url = Annotated[
    str,
    Field(
        max_length=URL_MAX_LENGTH,
        description="https, on a public address; neither a user nor a fragment",
        examples=["https://example.com/webhooks"],
    ),
    AfterValidator(_callable_url),
]
Subscription = Annotated[
    list[EventType],
    Field(
        min_length=1,
        max_length=2 * len(EventType),
        description='The types to be sent; `["*"]` stands for all that there are now',
        examples=[[EventType.TRANSACTION_COMPLETED.value]],
    ),
    AfterValidator(_each_once),
    BeforeValidator(_expanded),
]


class WebhookEndpointRequest(RequestModel):
    """Where events are to be sent, and which."""

    url: Url
    events: Subscription


class WebhookEndpointChange(RequestModel):
    """What is to be changed. Disabling cancels what waits to be sent; what a 410 disabled can be enabled again."""

    url: Url | None = None
    events: Subscription | None = None
    status: EndpointStatus | None = None


class WebhookEndpoint(ResponseModel):
    """Where events are sent. It never shows its secret."""

    id: Id
    object: Literal["webhook_endpoint"]
    url: str
    events: list[Literal[tuple(str(type) for type in EventType)]]  # type: ignore[valid-type]  # the enum's values
    status: Literal["enabled", "disabled"]
    disabled_reason: str | None
    created_at: Timestamp
    updated_at: Timestamp


class NewWebhookEndpoint(WebhookEndpoint):
    """An endpoint with its new secret: it is not shown again."""

    secret: Annotated[str, Field(pattern=r"^whsec_[A-Za-z0-9+/]+=*$", description="For a Standard Webhooks library")]


class WebhookEndpointPage(ResponseModel):
    """Webhook endpoints, newest first."""

    data: list[WebhookEndpoint]
    next_cursor: str | None


class WebhookDelivery(ResponseModel):
    """One event on its way to one endpoint, or at the end of it."""

    id: Id
    object: Literal["webhook_delivery"]
    endpoint_id: Id
    event_id: Id
    event_type: str
    status: Literal["pending", "succeeded", "exhausted", "canceled"]
    attempts: int
    next_attempt_at: Timestamp | None
    last_attempt_at: Timestamp | None
    response_status: Annotated[int | None, Field(description="Of the last attempt, if it got an answer")]
    last_error: Annotated[str | None, Field(description="Why the last attempt failed")]
    created_at: Timestamp
    finished_at: Timestamp | None


class WebhookDeliveryPage(ResponseModel):
    """Deliveries, newest first."""

    data: list[WebhookDelivery]
    next_cursor: str | None


class WebhookDeliveryQuery(ListQuery):
    """Which deliveries to list."""

    status: DeliveryStatus | None = None


@routes.post(
    "/v1/webhook-endpoints",
    scope="webhooks:manage",
    responses={201: NewWebhookEndpoint},
    errors=(TooManyEndpoints,),
)
def create_webhook_endpoint(context: RequestContext, body: WebhookEndpointRequest) -> ApiResponse:
    """Have events sent to a URL. The answer shows the secret that they are signed with, this once."""
    with db.begin() as connection:
        made = webhook_endpoints.create(connection, context.merchant_id, body.url, body.events, context.actor)
    return ApiResponse(made, 201, {"Location": f"/v1/webhook-endpoints/{made['id']}"})


@routes.get("/v1/webhook-endpoints", scope="webhooks:manage", responses={200: WebhookEndpointPage})
def list_webhook_endpoints(context: RequestContext, query: ListQuery) -> ApiResponse:
    """List webhook endpoints, newest first."""
    return list_response("webhook_endpoint", query, webhook_endpoints.list_newest, context.merchant_id)


@routes.get("/v1/webhook-endpoints/<id>", scope="webhooks:manage", responses={200: WebhookEndpoint})
def get_webhook_endpoint(context: RequestContext, id: UUID) -> ApiResponse:
    """Read a webhook endpoint."""
    with db.autocommit() as connection:
        return ApiResponse(webhook_endpoints.find(connection, context.merchant_id, id))


@routes.patch("/v1/webhook-endpoints/<id>", scope="webhooks:manage", responses={200: WebhookEndpoint})
def change_webhook_endpoint(context: RequestContext, id: UUID, body: WebhookEndpointChange) -> ApiResponse:
    """Change URL, events or status of a webhook endpoint."""
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
    """Delete a webhook endpoint, and cancel the deliveries that wait for it."""
    with db.begin() as connection:
        webhook_endpoints.delete(connection, context.merchant_id, id, context.actor)
    return ApiResponse(status=204)


@routes.post("/v1/webhook-endpoints/<id>/rotate-secret", scope="webhooks:manage", responses={200: NewWebhookEndpoint})
def rotate_webhook_secret(context: RequestContext, id: UUID) -> ApiResponse:
    """Give a webhook endpoint a new secret, shown this once. The one before signs too for 24 hours."""
    with db.begin() as connection:
        return ApiResponse(webhook_endpoints.rotate_secret(connection, context.merchant_id, id, context.actor))


@routes.get("/v1/webhook-endpoints/<id>/deliveries", scope="webhooks:manage", responses={200: WebhookDeliveryPage})
def list_webhook_deliveries(context: RequestContext, id: UUID, query: WebhookDeliveryQuery) -> ApiResponse:
    """List what was sent, or is to be sent, to a webhook endpoint, newest first."""
    return list_response("webhook_delivery", query, delivery_queries.list_newest, context.merchant_id, id, query.status)
