"""Transactions: create, retrieve, list and cancel them."""

import json
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.access import merchant_limits
from gateway.api.http import idempotency
from gateway.api.http.paging import Decimal, ListQuery, list_response
from gateway.api.http.parameters import CurrencyCode, TimestampParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
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
            UnknownPaymentMethod.code,
            "No provider accepts this payment method. With the simulated provider, use tok_approve.",
        )
    return payment_method


MetadataKey = Annotated[str, Field(min_length=1, max_length=METADATA_KEY_MAX_LENGTH)]
MetadataValue = Annotated[str, Field(max_length=METADATA_VALUE_MAX_LENGTH)]


class TransactionRequest(RequestModel):
    """A payment to accept."""

    amount: Annotated[
        int,
        Field(ge=AMOUNT_MIN, le=AMOUNT_MAX, description="Amount in the currency's minor unit", examples=[12550]),
    ]
    currency: CurrencyCode
    payment_method: Annotated[
        str,
        Field(
            min_length=1,
            max_length=PAYMENT_METHOD_MAX_LENGTH,
            description="The provider's token for the payment method; never a card number",
        ),
        AfterValidator(_known_payment_method),
    ] = "tok_approve"
    reference: Annotated[
        str | None,
        Field(
            max_length=REFERENCE_MAX_LENGTH,
            description="Your own reference, such as an order number; need not be unique",
            examples=["order-1001"],
        ),
    ] = None
    description: Annotated[
        str | None,
        Field(max_length=DESCRIPTION_MAX_LENGTH, description="Your own description", examples=["Two seats"]),
    ] = None
    customer_id: Annotated[
        str | None,
        Field(max_length=CUSTOMER_ID_MAX_LENGTH, description="Your own id of the customer", examples=["cus_77"]),
    ] = None
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        Field(
            max_length=METADATA_MAX_KEYS,
            description="Your own data: keys of at most 40 and values of at most 500 characters",
            examples=[{"cart": "c-9"}],
        ),
    ] = Field(default_factory=dict)

    def as_new(self) -> NewTransaction:
        """Return the transaction for the domain."""
        return NewTransaction(**vars(self))


class PaymentFailure(ResponseModel):
    """The reason why a transaction or a refund failed."""

    code: Annotated[str, Field(description="The reason, for programs")]
    message: Annotated[str, Field(description="The reason, for people")]
    category: Annotated[
        Literal["declined", "provider_error", "expired", "discarded"],
        Field(
            description="`declined`: by the provider, finally. `provider_error`: all attempts failed. `expired`: it "
            "was not processed in time. `discarded`: by an operator"
        ),
    ]
    retryable: Annotated[bool, Field(description="Whether a new payment or refund may succeed")]


class Transaction(ResponseModel):
    """A payment of a customer to a merchant."""

    id: Id
    object: Literal["transaction"]
    merchant_id: Id
    amount: Annotated[int, Field(description="Amount in the currency's minor unit")]
    currency: str
    status: Annotated[
        TransactionStatus,
        Field(
            description="`pending`: accepted, and not yet sent to a provider. `processing`: a provider executes it. "
            "`completed`: settled. `failed`: final. `dead_lettered`: all attempts failed, and an operator decides "
            "whether it is processed again. `canceled`: by the merchant. `partially_refunded`, `refunded`: refunded "
            "after completion"
        ),
    ]
    payment_method: str
    reference: str | None
    description: str | None
    customer_id: str | None
    metadata: dict[str, str]
    provider: Annotated[str | None, Field(description="The provider; null while it is not chosen", examples=[None])]
    provider_reference: Annotated[
        str | None,
        Field(description="The provider's own id of the payment; null until it is completed", examples=[None]),
    ]
    failure: Annotated[PaymentFailure | None, Field(description="Why the transaction failed; null if it did not")]
    attempts: Annotated[int, Field(examples=[0])]
    amount_refunded: int
    created_at: Timestamp
    updated_at: Timestamp
    completed_at: Timestamp | None


class TransactionQuery(ListQuery):
    """Filters of transactions."""

    status: TransactionStatus | None = None
    currency: CurrencyCode | None = None
    reference: Annotated[str | None, Field(max_length=REFERENCE_MAX_LENGTH)] = None
    customer_id: Annotated[str | None, Field(max_length=CUSTOMER_ID_MAX_LENGTH)] = None
    created_from: TimestampParameter | None = None
    created_to: TimestampParameter | None = None
    amount_min: Decimal | None = None
    amount_max: Decimal | None = None


@routes.post(
    "/v1/transactions",
    scope="transactions:write",
    idempotent=True,
    responses={201: Transaction},
    errors=(*idempotency.ERRORS, UnknownPaymentMethod),
)
def create_transaction(context: RequestContext, body: TransactionRequest) -> ApiResponse:
    """Accept a payment.

    The transaction is `pending` when it is returned. It is then processed in the background; a webhook reports the
    result. Send an `Idempotency-Key`, so that you can safely repeat the request if you get no response.
    """
    merchant_limits.admit_payment(context.merchant_id)
    accepted = acceptance.accept(context.merchant_id, body.as_new(), context.request_id, context.idempotency_key())
    return idempotency.api_response(accepted)


@routes.get("/v1/transactions", scope="transactions:read", responses={200: page_of(Transaction)})
def list_transactions(context: RequestContext, query: TransactionQuery) -> ApiResponse:
    """List transactions, newest first.

    A page may have fewer than `limit` transactions, or none, and still have a `next_cursor`: at most 2,000 transactions
    are searched for each page. The list ends where `next_cursor` is null.
    """
    return list_response(
        "transaction", query, transaction_queries.list_newest, context.merchant_id, TransactionFilter(**query.filters())
    )


@routes.get("/v1/transactions/<id>", scope="transactions:read", responses={200: Transaction})
def get_transaction(context: RequestContext, id: UUID) -> ApiResponse:
    """Retrieve a transaction."""
    with db.autocommit() as connection:
        return ApiResponse(transaction_queries.find(connection, context.merchant_id, id))


@routes.post(
    "/v1/transactions/<id>/cancel",
    scope="transactions:write",
    idempotent=True,
    responses={200: Transaction},
    errors=(*idempotency.ERRORS, InvalidState),
)
def cancel_transaction(context: RequestContext, id: UUID) -> ApiResponse:
    """Cancel a transaction that is still `pending`.

    A transaction that is `processing` cannot be canceled; refund it when it has completed.
    """
    return idempotency.once(
        context,
        id,
        lambda connection: StoredResponse(200, json.dumps(transactions.cancel(connection, context.merchant_id, id))),
    )
