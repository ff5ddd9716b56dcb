"""Transactions over HTTP: post one, read one, list them, cancel one."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.access import merchant_limits
from gateway.api.http import idempotency
from gateway.api.http.paging import Decimal, Page, list_page
from gateway.api.http.parameters import CurrencyCode, Moment
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Id, Time
from gateway.api.http.validation import RequestModel
from gateway.domain.payments import transaction_queries, transactions
from gateway.domain.payments.transaction_queries import TransactionFilter
from gateway.domain.payments.transactions import NewTransaction
from gateway.domain.shared.idempotency import StoredResponse
from gateway.errors import InvalidState, UnknownPaymentMethod
from gateway.flows import acceptance
from gateway.money import AMOUNT_MAX, AMOUNT_MIN
from gateway.providers import registry
from gateway.states import TransactionStatus

PAYMENT_METHOD_MAX_LENGTH = 255
REFERENCE_MAX_LENGTH = 255
DESCRIPTION_MAX_LENGTH = 500
CUSTOMER_ID_MAX_LENGTH = 64
METADATA_MAX_KEYS = 50
METADATA_KEY_MAX_LENGTH = 40
METADATA_VALUE_MAX_LENGTH = 500

routes = Routes("Transactions")


def _known_payment_method(payment_method: str) -> str:
    if not registry.accepts(payment_method):
        raise PydanticCustomError(
            UnknownPaymentMethod.code, "No provider knows this payment method; in the sandbox, tok_approve works."
        )
    return payment_method


MetadataKey = Annotated[str, Field(min_length=1, max_length=METADATA_KEY_MAX_LENGTH)]
MetadataValue = Annotated[str, Field(max_length=METADATA_VALUE_MAX_LENGTH)]


class TransactionRequest(RequestModel):
    """A payment to be made."""

    amount: Annotated[
        int, Field(ge=AMOUNT_MIN, le=AMOUNT_MAX, description="In the currency's minor unit", examples=[12550])
    ]
    currency: CurrencyCode
    payment_method: Annotated[
        str,
        Field(min_length=1, max_length=PAYMENT_METHOD_MAX_LENGTH, description="A provider's token"),
        AfterValidator(_known_payment_method),
    ] = "tok_approve"
    reference: Annotated[str | None, Field(max_length=REFERENCE_MAX_LENGTH, examples=["order-1001"])] = None
    description: Annotated[str | None, Field(max_length=DESCRIPTION_MAX_LENGTH, examples=["Two seats"])] = None
    customer_id: Annotated[str | None, Field(max_length=CUSTOMER_ID_MAX_LENGTH, examples=["cus_77"])] = None
    metadata: Annotated[
        dict[MetadataKey, MetadataValue], Field(max_length=METADATA_MAX_KEYS, examples=[{"cart": "c-9"}])
    ] = Field(default_factory=dict)

    def as_new(self) -> NewTransaction:
        """What the domain is asked for."""
        return NewTransaction(**vars(self))


class Failure(AnswerModel):
    """Why a transaction failed."""

    code: str
    message: str
    category: Literal["declined", "provider_error", "expired", "discarded"]
    retryable: bool


class Transaction(AnswerModel):
    """A payment of a merchant's customer."""

    id: Id
    object: Literal["transaction"]
    merchant_id: Id
    amount: Annotated[int, Field(description="In the currency's minor unit")]
    currency: str
    status: Literal[tuple(str(status) for status in TransactionStatus)]  # type: ignore[valid-type]  # the enum's values
    payment_method: str
    reference: str | None
    description: str | None
    customer_id: str | None
    metadata: dict[str, str]
    provider: Annotated[str | None, Field(examples=[None])]
    provider_reference: Annotated[str | None, Field(examples=[None])]
    failure: Failure | None
    attempts: Annotated[int, Field(examples=[0])]
    amount_refunded: int
    created_at: Time
    updated_at: Time
    completed_at: Time | None


class TransactionPage(AnswerModel):
    """Transactions, newest first."""

    data: list[Transaction]
    next_cursor: str | None


class TransactionQuery(Page):
    """Which transactions to list. Times are inclusive from, exclusive to."""

    status: TransactionStatus | None = None
    currency: CurrencyCode | None = None
    reference: Annotated[str | None, Field(max_length=REFERENCE_MAX_LENGTH)] = None
    customer_id: Annotated[str | None, Field(max_length=CUSTOMER_ID_MAX_LENGTH)] = None
    created_from: Moment | None = None
    created_to: Moment | None = None
    amount_min: Decimal | None = None
    amount_max: Decimal | None = None

    def as_filter(self) -> TransactionFilter:
        """What the domain is asked for."""
        return TransactionFilter(**self.model_dump(exclude={"limit", "cursor"}))


@routes.post(
    "/v1/transactions",
    scope="transactions:write",
    idempotent=True,
    answers={201: Transaction},
    errors=(*idempotency.ERRORS, UnknownPaymentMethod),
)
def create_transaction(call: Call, body: TransactionRequest) -> Reply:
    """Take a payment. It is stored before the answer and reaches a final status whatever then happens."""
    merchant_limits.admit_payment(call.merchant_id)
    accepted = acceptance.accept(call.merchant_id, body.as_new(), call.request_id, call.idempotency_key())
    return idempotency.reply(accepted)


@routes.get("/v1/transactions", scope="transactions:read", answers={200: TransactionPage})
def list_transactions(call: Call, query: TransactionQuery) -> Reply:
    """List transactions, newest first.

    A page may hold fewer than `limit`, or none, and still have a `next_cursor`: a filter that matches rarely, such as a
    range of amounts, is tested on 2,000 transactions per page. The list ends where `next_cursor` is null.
    """
    with db.autocommit() as connection:
        page = list_page(
            "transaction",
            query,
            lambda before, limit: transaction_queries.list_newest(
                connection, call.merchant_id, query.as_filter(), before, limit
            ),
        )
    return Reply(page)


@routes.get("/v1/transactions/<id>", scope="transactions:read", answers={200: Transaction})
def get_transaction(call: Call, id: Any) -> Reply:
    """Read a transaction."""
    with db.autocommit() as connection:
        return Reply(transaction_queries.find(connection, call.merchant_id, id))


@routes.post(
    "/v1/transactions/<id>/cancel",
    scope="transactions:write",
    idempotent=True,
    answers={200: Transaction},
    errors=(*idempotency.ERRORS, InvalidState),
)
def cancel_transaction(call: Call, id: Any) -> Reply:
    """Cancel a transaction that is not routed yet. One that is under way completes; refund it then."""
    return idempotency.once(
        call,
        id,
        lambda connection: StoredResponse(200, json.dumps(transactions.cancel(connection, call.merchant_id, id))),
    )
