"""Idempotency keys (docs/idempotency.md; draft-ietf-httpapi-idempotency-key-header).

Requests are the same if their method, path and body bytes are the same. The record is committed together with the
work, so neither exists without the other. `payments.transactions` writes both in one statement; work that needs several
statements uses `once`.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError

from gateway.errors import IdempotencyInProgress, IdempotencyKeyReused, InvalidIdempotencyKey
from gateway.models.transactions import IdempotencyRecord

KEY_MAX_LENGTH = 255
RETRY_AFTER = {"Retry-After": "1"}


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The HTTP response to the first request with a key."""

    status: int
    body: str
    location: str | None = None


@dataclass(frozen=True, slots=True)
class IdempotentResponse:
    """A response, and whether it is the stored response of an earlier request."""

    response: StoredResponse
    replayed: bool


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An idempotency key, and the hash of its request."""

    key: str
    request_hash: bytes

    @classmethod
    def of(cls, key: str, method: str, path: str, body: bytes) -> "IdempotencyKey":
        """Return the key of one request.

        Raises:
            InvalidIdempotencyKey: it does not have 1 to 255 printable ASCII characters.
        """
        if not (1 <= len(key) <= KEY_MAX_LENGTH and key.isascii() and key.isprintable()):
            raise InvalidIdempotencyKey
        return cls(key, hashlib.sha256(b"\n".join((method.encode(), path.encode(), body))).digest())


def once(
    connection: Connection,
    merchant_id: UUID,
    key: IdempotencyKey | None,
    transaction_id: UUID,
    work: Callable[[], StoredResponse],
) -> IdempotentResponse:
    """Do `work`, or return the first response again if `key` was used before. Without a key, `work` is always done.

    The record is inserted before the work and completed after it, in the database transaction of `connection`; an
    exception of `work` undoes both. `transaction_id` is the transaction that the request is about. The record is kept
    at least until this transaction is finished.

    Raises:
        IdempotencyKeyReused: `key` was used with a different request.
        IdempotencyInProgress: the first request with `key` does not end within `LOCK_TIMEOUT_MS`.
    """
    if key is None:
        return IdempotentResponse(work(), replayed=False)
    of_key = {"merchant_id": merchant_id, "key": key.key}
    claim = insert(IdempotencyRecord).values(
        **of_key, request_hash=key.request_hash, transaction_id=transaction_id, status=0, body=""
    )
    with wait_for_first_request():
        claimed = connection.execute(claim.on_conflict_do_nothing().returning(IdempotencyRecord.key)).first()
    if claimed is None:
        return IdempotentResponse(first_response(connection, merchant_id, key), replayed=True)
    response = work()
    connection.execute(
        update(IdempotencyRecord)
        .filter_by(**of_key)
        .values(status=response.status, body=response.body, location=response.location)
    )
    return IdempotentResponse(response, replayed=False)


@contextmanager
def wait_for_first_request() -> Iterator[None]:
    """Translate the timeout of inserting a record, which waits for a concurrent request with the same key.

    Raises:
        IdempotencyInProgress: the wait exceeded `database_sessions.LOCK_TIMEOUT_MS`.
    """
    try:
        yield
    except OperationalError as exc:
        if isinstance(exc.orig, LockNotAvailable):
            raise IdempotencyInProgress(headers=RETRY_AFTER) from exc
        raise


def first_response(connection: Connection, merchant_id: UUID, key: IdempotencyKey) -> StoredResponse:
    """Return the response to the first request with this key.

    Raises:
        IdempotencyKeyReused: the key was used for a different request.
        IdempotencyInProgress: the record no longer exists, because it was purged at this moment.
    """
    record = connection.execute(
        select(
            IdempotencyRecord.request_hash, IdempotencyRecord.status, IdempotencyRecord.body, IdempotencyRecord.location
        ).where(IdempotencyRecord.merchant_id == merchant_id, IdempotencyRecord.key == key.key)
    ).one_or_none()
    if record is None:
        raise IdempotencyInProgress(headers=RETRY_AFTER)
    if record.request_hash != key.request_hash:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {key.key!r} was used before with another body or path; use a new key."
        )
    return StoredResponse(record.status, record.body, record.location)
