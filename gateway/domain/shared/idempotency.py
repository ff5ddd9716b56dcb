"""Idempotency keys (api.md, Idempotency; draft-ietf-httpapi-idempotency-key-header).

A request is the same when method, path and body bytes are. The record is committed together with the work, so there
is never a record without its effect, nor an effect without its record. `payments.transactions` does both in one
statement; what takes several is done by `once`.
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
    """An HTTP answer as it was first given."""

    status: int
    body: str
    location: str | None = None


@dataclass(frozen=True, slots=True)
class IdempotentResponse:
    """An answer, and whether it repeats an earlier one."""

    response: StoredResponse
    replayed: bool


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A merchant's key and the fingerprint of the request that it came with."""

    key: str
    request_hash: bytes

    @classmethod
    def of(cls, key: str, method: str, path: str, body: bytes) -> "IdempotencyKey":
        """The key of one request.

        Raises:
            InvalidIdempotencyKey: it is not 1 to 255 printable ASCII characters.
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
    """Do `work`, or return the first answer again if `key` was used before. Without a key the work is always done.

    The record is claimed before the work and completed after it, in the one database transaction of `connection`:
    what `work` raises undoes both. `transaction_id` is the transaction that the request is about; while it is
    unfinished, the record is kept.

    Raises:
        IdempotencyKeyReused: `key` came with a different request before.
        IdempotencyInProgress: the first request with `key` has not ended within `sessions.LOCK_TIMEOUT_MS`.
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
    answer = work()
    connection.execute(
        update(IdempotencyRecord)
        .filter_by(**of_key)
        .values(status=answer.status, body=answer.body, location=answer.location)
    )
    return IdempotentResponse(answer, replayed=False)


@contextmanager
def wait_for_first_request() -> Iterator[None]:
    """Around the INSERT of a record, which waits while another request with the same key is under way.

    Raises:
        IdempotencyInProgress: the wait took longer than `sessions.LOCK_TIMEOUT_MS`.
    """
    try:
        yield
    except OperationalError as exc:
        if isinstance(exc.orig, LockNotAvailable):
            raise IdempotencyInProgress(headers=RETRY_AFTER) from exc
        raise


def first_response(connection: Connection, merchant_id: UUID, key: IdempotencyKey) -> StoredResponse:
    """The answer that the first request with this key got.

    Raises:
        IdempotencyKeyReused: the key was used for a different request.
        IdempotencyInProgress: there is no record any more; it was purged at this moment.
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
