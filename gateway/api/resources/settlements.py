"""Settlements of completed transactions."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.domain.payments import settlement_queries

routes = Routes("Settlements")


class Settlement(ResponseModel):
    """The proceeds of a completed transaction: its amount less the fee."""

    id: Id
    object: Literal["settlement"]
    transaction_id: Annotated[Id, Field(description="The settled transaction")]
    amount: Annotated[int, Field(description="Amount of the transaction, in the currency's minor unit")]
    fee: Annotated[int, Field(description="Fee of the gateway, in the currency's minor unit")]
    net: Annotated[int, Field(description="`amount - fee`, in the currency's minor unit")]
    currency: str
    status: Literal["settled"]
    provider: str
    provider_reference: str
    attempts: int
    settled_at: Timestamp


class SettlementQuery(ListQuery):
    """Filters of settlements."""

    transaction_id: IdParameter | None = None


@routes.get("/v1/settlements", scope="settlements:read", responses={200: page_of(Settlement)})
def list_settlements(context: RequestContext, query: SettlementQuery) -> ApiResponse:
    """List settlements, newest first."""
    return list_response("settlement", query, settlement_queries.list_newest, context.merchant_id, query.transaction_id)


@routes.get("/v1/settlements/<id>", scope="settlements:read", responses={200: Settlement})
def get_settlement(context: RequestContext, id: UUID) -> ApiResponse:
    """Retrieve a settlement."""
    with db.autocommit() as connection:
        return ApiResponse(settlement_queries.find(connection, context.merchant_id, id))
