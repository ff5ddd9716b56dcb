"""Execute requests with an Idempotency-Key once, and respond to repeated ones with the stored response."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import Connection

from gateway import db
from gateway.api.http.routes import ApiResponse, RequestContext
from gateway.domain.shared import idempotency
from gateway.domain.shared.idempotency import IdempotentResponse, StoredResponse
from gateway.errors import IdempotencyInProgress, IdempotencyKeyReused, InvalidIdempotencyKey

ERRORS = (InvalidIdempotencyKey, IdempotencyInProgress, IdempotencyKeyReused)
"""The errors that every endpoint with an Idempotency-Key declares."""


def once(context: RequestContext, transaction_id: UUID, work: Callable[[Connection], StoredResponse]) -> ApiResponse:
    """Execute `work` on this transaction and store its response in one commit, or return the stored response.

    Raises:
        ERRORS: see `RequestContext.idempotency_key` and `idempotency.once`. An error of `work` rolls everything back.
    """
    key = context.idempotency_key()
    with db.begin() as connection:
        result = idempotency.once(connection, context.merchant_id, key, transaction_id, lambda: work(connection))
    return api_response(result)


def api_response(result: IdempotentResponse) -> ApiResponse:
    """Return the HTTP response, with the header `Idempotency-Replayed` if it is a stored one."""
    headers = {"Location": result.response.location} if result.response.location else {}
    if result.replayed:
        headers["Idempotency-Replayed"] = "true"
    return ApiResponse(result.response.body, result.response.status, headers)
