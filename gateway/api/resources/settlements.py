"""Settlements over HTTP: what completed transactions brought."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway import db
from gateway.api.http.paging import Page, list_page
from gateway.api.http.parameters import IdParameter
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Id, Time
from gateway.domain.payments import settlement_queries

MinorUnits = Annotated[int, Field(description="In the currency's minor unit")]

routes = Routes("Settlements")


class Settlement(AnswerModel):
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
    settled_at: Time


class SettlementPage(AnswerModel):
    """Settlements, newest first."""

    data: list[Settlement]
    next_cursor: str | None


class SettlementQuery(Page):
    """Which settlements to list."""

    transaction_id: IdParameter | None = None


@routes.get("/v1/settlements", scope="settlements:read", answers={200: SettlementPage})
def list_settlements(call: Call, query: SettlementQuery) -> Reply:
    """List settlements, newest first."""
    with db.autocommit() as connection:
        page = list_page(
            "settlement",
            query,
            lambda before, limit: settlement_queries.list_newest(
                connection, call.merchant_id, query.transaction_id, before, limit
            ),
        )
    return Reply(page)


@routes.get("/v1/settlements/<id>", scope="settlements:read", answers={200: Settlement})
def get_settlement(call: Call, id: Any) -> Reply:
    """Read a settlement."""
    with db.autocommit() as connection:
        return Reply(settlement_queries.find(connection, call.merchant_id, id))
