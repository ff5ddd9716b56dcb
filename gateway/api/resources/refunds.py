"""Refunds: create, retrieve and list them."""

import json
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection

from gateway import db
from gateway.api.http import idempotency
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter, TimestampParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.api.http.validation import RequestModel
from gateway.api.resources.transactions import PaymentFailure
from gateway.domain.payments import refund_queries, refunds
from gateway.domain.payments.refund_queries import RefundFilter
from gateway.domain.payments.refunds import NewRefund
from gateway.domain.shared.idempotency import StoredResponse
from gateway.errors import AmountExceedsRefundable, InvalidState
from gateway.money import AMOUNT_MAX, AMOUNT_MIN
from gateway.states import RefundStatus

REASON_MAX_LENGTH = 500

routes = Routes("Refunds")


class RefundRequest(RequestModel):
    """A refund of a completed transaction."""

    amount: Annotated[
        int | None,
        Field(
            ge=AMOUNT_MIN,
            le=AMOUNT_MAX,
            description="Amount to refund, in the currency's minor unit; by default, all that is not refunded yet",
        ),
    ] = None
    reason: Annotated[
        str | None,
        Field(
            max_length=REASON_MAX_LENGTH, description="Your reason, for your records", examples=["One seat was taken"]
        ),
    ] = None

    def as_new(self) -> NewRefund:
        """Return the refund for the domain."""
        return NewRefund(**dict(self))


class Refund(ResponseModel):
    """Money that a merchant returns to a customer."""

    id: Id
    object: Literal["refund"]
    transaction_id: Annotated[Id, Field(description="The refunded transaction")]
    merchant_id: Id
    amount: Annotated[int, Field(description="Refunded amount, in the currency's minor unit")]
    currency: str
    reason: Annotated[str | None, Field(description="The `reason` of the request", examples=["One seat was taken"])]
    status: RefundStatus
    provider: str
    provider_reference: str | None
    failure: Annotated[PaymentFailure | None, Field(description="Why the refund failed; null if it did not")]
    attempts: int
    created_at: Timestamp
    updated_at: Timestamp
    completed_at: Timestamp | None


class RefundQuery(ListQuery):
    """Filters of refunds."""

    transaction_id: IdParameter | None = None
    status: RefundStatus | None = None
    created_from: TimestampParameter | None = None
    created_to: TimestampParameter | None = None


@routes.post(
    "/v1/transactions/<id>/refunds",
    scope="refunds:write",
    idempotent=True,
    responses={201: Refund},
    errors=(*idempotency.ERRORS, InvalidState, AmountExceedsRefundable),
)
def create_refund(context: RequestContext, id: UUID, body: RefundRequest) -> ApiResponse:
    """Refund a completed transaction, completely or in part.

    The refunds of a transaction never exceed its amount. The refund is `pending` until the provider has executed it.
    """

    def work(connection: Connection) -> StoredResponse:
        refund = refunds.create(connection, context.merchant_id, id, body.as_new(), context.request_id)
        return StoredResponse(201, json.dumps(refund), f"/v1/refunds/{refund['id']}")

    return idempotency.once(context, id, work)


@routes.get("/v1/refunds", scope="transactions:read", responses={200: page_of(Refund)})
def list_refunds(context: RequestContext, query: RefundQuery) -> ApiResponse:
    """List refunds, newest first."""
    return list_response(
        "refund", query, refund_queries.list_newest, context.merchant_id, RefundFilter(**query.filters())
    )


@routes.get("/v1/refunds/<id>", scope="transactions:read", responses={200: Refund})
def get_refund(context: RequestContext, id: UUID) -> ApiResponse:
    """Retrieve a refund."""
    with db.autocommit() as connection:
        return ApiResponse(refund_queries.find(connection, context.merchant_id, id))
