"""The balance of a merchant, computed from the ledger."""

from typing import Annotated

from pydantic import Field

from gateway import db
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import ResponseModel
from gateway.domain.payments import balances

routes = Routes("Settlements")


class CurrencyBalance(ResponseModel):
    """The balance in one currency."""

    currency: str
    available: Annotated[
        int,
        Field(
            description="`settled - refunded - fees`, in the currency's minor unit; negative if the merchant owes money"
        ),
    ]
    settled: Annotated[int, Field(description="Sum of all settlements, before fees, in the currency's minor unit")]
    refunded: Annotated[int, Field(description="Sum of all completed refunds, in the currency's minor unit")]
    fees: Annotated[int, Field(description="Sum of all fees, in the currency's minor unit")]


class Balance(ResponseModel):
    """The balance in each currency in which a transaction was settled, sorted by currency."""

    data: Annotated[list[CurrencyBalance], Field(description="The balances, sorted by currency")]


@routes.get("/v1/balance", scope="settlements:read", responses={200: Balance})
def get_balance(context: RequestContext) -> ApiResponse:
    """Retrieve the balance in each currency. It includes every settlement and every refund completed so far."""
    with db.autocommit() as connection:
        return ApiResponse({"data": balances.of_merchant(connection, context.merchant_id)})
