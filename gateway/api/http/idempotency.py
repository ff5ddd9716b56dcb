"""Calls that take an Idempotency-Key (api.md, Idempotency): doing their work once, and answering repeats."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import Connection

from gateway import db
from gateway.api.http.routes import ApiResponse, RequestContext
from gateway.domain.shared import idempotency
from gateway.domain.shared.idempotency import Answer, Given
from gateway.errors import IdempotencyInProgress, IdempotencyKeyReused, InvalidIdempotencyKey

ERRORS = (InvalidIdempotencyKey, IdempotencyInProgress, IdempotencyKeyReused)
"""What every such call may answer; for its declaration."""


def once(context: RequestContext, transaction_id: UUID, work: Callable[[Connection], Answer]) -> ApiResponse:
    """Answer `call`, which is about this transaction, with what `work` answers, in one commit; repeats alike.

    Raises:
        ERRORS: see `RequestContext.idempotency_key` and `idempotency.once`. An error of `work` rolls everything back.
    """
    key = context.idempotency_key()
    with db.begin() as connection:
        given = idempotency.once(connection, context.merchant_id, key, transaction_id, lambda: work(connection))
    return reply(given)


def reply(given: Given) -> ApiResponse:
    """The answer as HTTP, with the header that tells a repeat."""
    headers = {"Location": given.answer.location} if given.answer.location else {}
    if given.replayed:
        headers["Idempotency-Replayed"] = "true"
    return ApiResponse(given.answer.body, given.answer.status, headers)
