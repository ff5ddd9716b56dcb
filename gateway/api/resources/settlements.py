"""Settlements over HTTP: what completed transactions brought."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp
from gateway.domain.payments import settlement_queries

MinorUnits = Annotated[int, Field(description="In the currency's minor unit")]

routes = Routes("Settlements")


class Settlement(ResponseModel):
    """What a completed transaction brought: the amount, less the fee."""

    id: Id
    object: Literal["settlement"]
    transaction_id: Id
    amount: MinorUnits
    fee: MinorUnits
    net: MinorUnits
    currency: str
    status: Literal["settled"]
    provider: str
    provider_reference: str
    attempts: int
    settled_at: Timestamp


class SettlementPage(ResponseModel):
    """Settlements, newest first."""

    data: list[Settlement]
    next_cursor: str | None


class SettlementQuery(ListQuery):
    """Which settlements to list."""

    transaction_id: IdParameter | None = None


@routes.get("/v1/settlements", scope="settlements:read", responses={200: SettlementPage})
def list_settlements(context: RequestContext, query: SettlementQuery) -> ApiResponse:
    """List settlements, newest first."""
    return list_response("settlement", query, settlement_queries.list_newest, context.merchant_id, query.transaction_id)


@routes.get("/v1/settlements/<id>", scope="settlements:read", responses={200: Settlement})
def get_settlement(context: RequestContext, id: UUID) -> ApiResponse:
    """Read a settlement."""
    with db.autocommit() as connection:
        return ApiResponse(settlement_queries.find(connection, context.merchant_id, id))
