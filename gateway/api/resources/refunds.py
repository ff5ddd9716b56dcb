"""Refunds over HTTP: ask for one, read one, list them."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import Connection

from gateway import db
from gateway.api.http import idempotency
from gateway.api.http.paging import Page, list_page
from gateway.api.http.parameters import IdParameter, Moment
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Id, Time
from gateway.api.http.validation import RequestModel
from gateway.api.resources.transactions import Failure
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
    """Money to be given back."""

    amount: Annotated[
        int | None,
        Field(ge=AMOUNT_MIN, le=AMOUNT_MAX, description="In the currency's minor unit; without it, all that is left"),
    ] = None
    reason: Annotated[str | None, Field(max_length=REASON_MAX_LENGTH, examples=["One seat was taken"])] = None

    def as_new(self) -> NewRefund:
        """What the domain is asked for."""
        return NewRefund(**dict(self))


class Refund(AnswerModel):
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
    created_at: Time
    updated_at: Time
    completed_at: Time | None


class RefundPage(AnswerModel):
    """Refunds, newest first."""

    data: list[Refund]
    next_cursor: str | None


class RefundQuery(Page):
    """Which refunds to list. Times are inclusive from, exclusive to."""

    transaction_id: IdParameter | None = None
    status: RefundStatus | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None

    def as_filter(self) -> RefundFilter:
        """What the domain is asked for."""
        return RefundFilter(**self.model_dump(exclude={"limit", "cursor"}))


@routes.post(
    "/v1/transactions/<id>/refunds",
    scope="refunds:write",
    idempotent=True,
    answers={201: Refund},
    errors=(*idempotency.ERRORS, InvalidState, AmountExceedsRefundable),
)
def create_refund(call: Call, id: Any, body: RefundRequest) -> Reply:
    """Give back what was paid, all of it or a part. Refunds of one transaction never exceed its amount."""

    def work(connection: Connection) -> StoredResponse:
        refund = refunds.create(connection, call.merchant_id, id, body.as_new(), call.request_id)
        return StoredResponse(201, json.dumps(refund), f"/v1/refunds/{refund['id']}")

    return idempotency.once(call, id, work)


@routes.get("/v1/refunds", scope="transactions:read", answers={200: RefundPage})
def list_refunds(call: Call, query: RefundQuery) -> Reply:
    """List refunds, newest first."""
    with db.autocommit() as connection:
        page = list_page(
            "refund",
            query,
            lambda before, limit: refund_queries.list_newest(
                connection, call.merchant_id, query.as_filter(), before, limit
            ),
        )
    return Reply(page)


@routes.get("/v1/refunds/<id>", scope="transactions:read", answers={200: Refund})
def get_refund(call: Call, id: Any) -> Reply:
    """Read a refund."""
    with db.autocommit() as connection:
        return Reply(refund_queries.find(connection, call.merchant_id, id))
