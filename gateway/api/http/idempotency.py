"""Calls that take an Idempotency-Key (api.md, Idempotency): doing their work once, and answering repeats."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import Connection

from gateway import db
from gateway.api.http.routes import Call, Reply
from gateway.domain.shared import idempotency
from gateway.domain.shared.idempotency import IdempotentResponse, StoredResponse
from gateway.errors import IdempotencyInProgress, IdempotencyKeyReused, InvalidIdempotencyKey

ERRORS = (InvalidIdempotencyKey, IdempotencyInProgress, IdempotencyKeyReused)
"""What every such call may answer; for its declaration."""


def once(call: Call, transaction_id: UUID, work: Callable[[Connection], StoredResponse]) -> Reply:
    """Answer `call`, which is about this transaction, with what `work` answers, in one commit; repeats alike.

    Raises:
        ERRORS: see `Call.idempotency_key` and `idempotency.once`. An error of `work` rolls everything back.
    """
    key = call.idempotency_key()
    with db.begin() as connection:
        given = idempotency.once(connection, call.merchant_id, key, transaction_id, lambda: work(connection))
    return reply(given)


def reply(given: IdempotentResponse) -> Reply:
    """The answer as HTTP, with the header that tells a repeat."""
    headers = {"Location": given.response.location} if given.response.location else {}
    if given.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Reply(given.response.body, given.response.status, headers)
