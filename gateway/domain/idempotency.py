"""Idempotency keys (api.md, Idempotency; draft-ietf-httpapi-idempotency-key-header).

A request is the same when method, path and body bytes are. The record is written by the statement that does the
work, so there is never a record without its effect, nor an effect without its record.
"""

import hashlib
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select

from gateway.errors import IdempotencyKeyReused, InvalidIdempotencyKey
from gateway.models.transactions import IdempotencyRecord

KEY_MAX_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it was first given."""

    status: int
    body: str
    location: str | None


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


def first_answer(connection: Connection, merchant_id: UUID, key: IdempotencyKey) -> Answer | None:
    """The answer that the first request with this key got, if there was one.

    Raises:
        IdempotencyKeyReused: the key was used for a different request.
    """
    record = connection.execute(
        select(
            IdempotencyRecord.request_hash, IdempotencyRecord.status, IdempotencyRecord.body, IdempotencyRecord.location
        ).where(IdempotencyRecord.merchant_id == merchant_id, IdempotencyRecord.key == key.key)
    ).one_or_none()
    if record is None:
        return None
    if record.request_hash != key.request_hash:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {key.key!r} was used before with another body or path; use a new key."
        )
    return Answer(record.status, record.body, record.location)
