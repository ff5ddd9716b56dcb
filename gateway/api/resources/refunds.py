"""Refunds over HTTP: ask for one, read one, list them."""

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
from gateway.api.http.schemas import Id, ResponseModel, Timestamp
from gateway.api.http.validation import RequestModel
from gateway.api.resources.transactions import Failure
from gateway.domain.payments import refund_queries, refunds
from gateway.domain.payments.refund_queries import RefundFilter
from gateway.domain.payments.refunds import NewRefund
from gateway.domain.shared.idempotency import Answer
from gateway.errors import AmountExceedsRefundable, InvalidState
from gateway.money import AMOUNT_MAX, AMOUNT_MIN
from gateway.states import RefundStatus

REASON_MAX_LENGTH = 500

routes = Routes("Refunds")


class RefundRequest(RequestModel):
    """Money to be given back."""

    amount: Annotated[
        int | None,
        Field(ge=AMOUNT_MIN, le=AMOUNT_MAX, description="In the currency's minor unit; without it, all that is left"),
    ] = None
    reason: Annotated[str | None, Field(max_length=REASON_MAX_LENGTH, examples=["One seat was taken"])] = None

    def as_new(self) -> NewRefund:
        """What the domain is asked for."""
        return NewRefund(**dict(self))


class Refund(ResponseModel):
    """Money on its way back to a merchant's customer."""

    id: Id
    object: Literal["refund"]
    transaction_id: Id
    merchant_id: Id
    amount: Annotated[int, Field(description="In the currency's minor unit")]
    currency: str
    reason: Annotated[str | None, Field(examples=["One seat was taken"])]
    status: Literal[tuple(str(status) for status in RefundStatus)]  # type: ignore[valid-type]  # the enum's values
    provider: str
    provider_reference: str | None
    failure: Failure | None
    attempts: int
    created_at: Timestamp
    updated_at: Timestamp
    completed_at: Timestamp | None


class RefundPage(ResponseModel):
    """Refunds, newest first."""

    data: list[Refund]
    next_cursor: str | None


class RefundQuery(ListQuery):
    """Which refunds to list. Times are inclusive from, exclusive to."""

    transaction_id: IdParameter | None = None
    status: RefundStatus | None = None
    created_from: TimestampParameter | None = None
    created_to: TimestampParameter | None = None

    def as_filter(self) -> RefundFilter:
        """What the domain is asked for."""
        return RefundFilter(**self.model_dump(exclude={"limit", "cursor"}))


@routes.post(
    "/v1/transactions/<id>/refunds",
    scope="refunds:write",
    idempotent=True,
    responses={201: Refund},
    errors=(*idempotency.ERRORS, InvalidState, AmountExceedsRefundable),
)
def create_refund(context: RequestContext, id: UUID, body: RefundRequest) -> ApiResponse:
    """Give back what was paid, all of it or a part. Refunds of one transaction never exceed its amount."""

    def work(connection: Connection) -> Answer:
        refund = refunds.create(connection, context.merchant_id, id, body.as_new(), context.request_id)
        return Answer(201, json.dumps(refund), f"/v1/refunds/{refund['id']}")

    return idempotency.once(context, id, work)


@routes.get("/v1/refunds", scope="transactions:read", responses={200: RefundPage})
def list_refunds(context: RequestContext, query: RefundQuery) -> ApiResponse:
    """List refunds, newest first."""
    return list_response("refund", query, refund_queries.list_newest, context.merchant_id, query.as_filter())


@routes.get("/v1/refunds/<id>", scope="transactions:read", responses={200: Refund})
def get_refund(context: RequestContext, id: UUID) -> ApiResponse:
    """Read a refund."""
    with db.autocommit() as connection:
        return ApiResponse(refund_queries.find(connection, context.merchant_id, id))
