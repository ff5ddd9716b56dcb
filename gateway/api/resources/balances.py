"""The balance over HTTP: what a merchant's payments came to."""

from typing import Annotated

from pydantic import Field

from gateway import db
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import ResponseModel
from gateway.domain.payments import balances

MinorUnits = Annotated[int, Field(description="In the currency's minor unit")]

routes = Routes("Settlements")


class CurrencyBalance(ResponseModel):
    """What a merchant's payments in one currency came to."""

    currency: str
    available: Annotated[
        int, Field(description="`settled - refunded - fees`, in minor units; below zero when the merchant owes")
    ]
    settled: MinorUnits
    refunded: MinorUnits
    fees: MinorUnits


class Balance(ResponseModel):
    """The balance in each currency that money was settled in, by currency."""

    data: list[CurrencyBalance]


@routes.get("/v1/balance", scope="settlements:read", responses={200: Balance})
def get_balance(context: RequestContext) -> ApiResponse:
    """Read the balance, per currency. It holds every settlement and refund that is completed at this moment."""
    with db.autocommit() as connection:
        return ApiResponse({"data": balances.of_merchant(connection, context.merchant_id)})
