"""The balance over HTTP: what a merchant's payments came to."""

from typing import Annotated

from pydantic import Field

from gateway import db
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel
from gateway.domain.payments import balances

MinorUnits = Annotated[int, Field(description="In the currency's minor unit")]

routes = Routes("Settlements")


class CurrencyBalance(AnswerModel):
    """What a merchant's payments in one currency came to."""

    currency: str
    available: Annotated[
        int, Field(description="`settled - refunded - fees`, in minor units; below zero when the merchant owes")
    ]
    settled: MinorUnits
    refunded: MinorUnits
    fees: MinorUnits


class Balance(AnswerModel):
    """The balance in each currency that money was settled in, by currency."""

    data: list[CurrencyBalance]


@routes.get("/v1/balance", scope="settlements:read", answers={200: Balance})
def get_balance(call: Call) -> Reply:
    """Read the balance, per currency. It holds every settlement and refund that is completed at this moment."""
    with db.autocommit() as connection:
        return Reply({"data": balances.of_merchant(connection, call.merchant_id)})
