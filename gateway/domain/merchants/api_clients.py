"""API clients of merchants: programs with an id, a secret and scopes.

Only the HMAC-SHA256 of a secret is stored, so the secret is shown only when it is created. Revoked clients are neither
listed nor found.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, insert, select, update

from gateway.config.groups import ACCESS_TOKEN_SECONDS_MAX
from gateway.domain.shared import audit
from gateway.domain.shared.listing import newest
from gateway.errors import InvalidToken, NotFound, TooManyApiClients
from gateway.ids import new_id, rfc3339, utc_now
from gateway.models.merchants import ApiClient, Merchant
from gateway.security.client_secrets import hash_secret

CLIENT_ID_PREFIX = "cl_"
CLIENT_ID_BYTES = 12
CLIENT_SECRET_BYTES = 32
SECRET_OVERLAP = timedelta(hours=24)
"""After a rotation, the previous secret remains valid for this time."""
CLIENTS_MAX = 100
"""Maximum number of API clients of a merchant."""
CLIENTS_REMEMBERED_MAX = 1_000
"""The same including revoked clients whose tokens may not have expired, because every process keeps these in memory."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The id and the secret of a client. The secret itself is not stored."""

    client_id: str
    client_secret: str


_COLUMNS = (
    ApiClient.id, ApiClient.client_id, ApiClient.name, ApiClient.scopes, ApiClient.previous_secret_until,
    ApiClient.created_at,
)  # fmt: skip


def _represent(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    until = row.previous_secret_until
    works = until is not None and until > utc_now()
    return {
        "id": str(row.id),
        "object": "api_client",
        "client_id": row.client_id,
        "name": row.name,
        "scopes": list(row.scopes),
        "previous_secret_expires_at": rfc3339(until) if works else None,
        "created_at": rfc3339(row.created_at),
    }


def _new_secret() -> str:
    return secrets.token_urlsafe(CLIENT_SECRET_BYTES)


def insert_new(
    connection: Connection, merchant_id: UUID, name: str, scopes: Sequence[str]
) -> tuple[dict[str, Any], Credentials]:
    """Store a new client without checks; return its representation and its credentials."""
    credentials = Credentials(CLIENT_ID_PREFIX + secrets.token_hex(CLIENT_ID_BYTES), _new_secret())
    row = connection.execute(
        insert(ApiClient)
        .values(
            id=new_id(),
            merchant_id=merchant_id,
            client_id=credentials.client_id,
            name=name,
            scopes=list(scopes),
            secret_hash=hash_secret(credentials.client_secret),
        )
        .returning(*_COLUMNS)
    ).one()
    return _represent(row), credentials


def create(
    connection: Connection, merchant_id: UUID, *, name: str, scopes: Sequence[str], actor: str
) -> dict[str, Any]:
    """Create a client; return it with its secret.

    Raises:
        TooManyApiClients: the merchant has `CLIENTS_MAX`, or `CLIENTS_REMEMBERED_MAX` with the revoked ones.
        InvalidToken: the merchant no longer exists.
    """
    # serializes the count per merchant; payments, whose foreign key locks the merchant too, do not wait for this lock
    merchant = select(Merchant.id).where(Merchant.id == merchant_id).with_for_update(key_share=True)
    if connection.execute(merchant).one_or_none() is None:
        raise InvalidToken
    remembered = func.now() - timedelta(seconds=ACCESS_TOKEN_SECONDS_MAX)
    clients = connection.execute(
        select(func.count().filter(ApiClient.revoked_at.is_(None)), func.count()).where(
            ApiClient.merchant_id == merchant_id, func.coalesce(ApiClient.revoked_at > remembered, True)
        )
    ).one()
    if clients[0] >= CLIENTS_MAX:
        raise TooManyApiClients(f"A merchant may have {CLIENTS_MAX} API clients; delete one first.")
    if clients[1] >= CLIENTS_REMEMBERED_MAX:
        raise TooManyApiClients("Too many API clients were deleted within a day; try again tomorrow.")
    shown, credentials = insert_new(connection, merchant_id, name, scopes)
    _audit(connection, actor, "created", merchant_id, shown)
    return shown | {"client_secret": credentials.client_secret}


def list_newest(connection: Connection, merchant_id: UUID, before: UUID | None, limit: int) -> Sequence[dict[str, Any]]:
    """Return at most `limit` clients of this merchant that are older than `before`, newest first."""
    query = select(*_COLUMNS).where(ApiClient.merchant_id == merchant_id, ApiClient.revoked_at.is_(None))
    return [_represent(row) for row in connection.execute(newest(query, ApiClient.id, before, limit))]


def _is(merchant_id: UUID, id: UUID) -> tuple[Any, ...]:
    return (ApiClient.id == id, ApiClient.merchant_id == merchant_id, ApiClient.revoked_at.is_(None))


def find(connection: Connection, merchant_id: UUID, id: UUID) -> dict[str, Any]:
    """Return one client of this merchant.

    Raises:
        NotFound: there is none, it is revoked, or it belongs to another merchant.
    """
    row = connection.execute(select(*_COLUMNS).where(*_is(merchant_id, id))).one_or_none()
    if row is None:
        raise NotFound
    return _represent(row)


def rotate(connection: Connection, merchant_id: UUID, id: UUID, actor: str) -> dict[str, Any]:
    """Give a client a new secret; return it with the secret. The replaced one remains valid for `SECRET_OVERLAP`.

    Raises:
        NotFound: see `find`.
    """
    secret = _new_secret()
    row = connection.execute(
        update(ApiClient)
        .where(*_is(merchant_id, id))
        .values(
            previous_secret_hash=ApiClient.secret_hash,
            previous_secret_until=func.now() + SECRET_OVERLAP,
            secret_hash=hash_secret(secret),
        )
        .returning(*_COLUMNS)
    ).one_or_none()
    if row is None:
        raise NotFound
    shown = _represent(row)
    _audit(connection, actor, "rotated", merchant_id, shown)
    return shown | {"client_secret": secret}


def revoke(connection: Connection, merchant_id: UUID, id: UUID, actor: str) -> None:
    """Revoke a client with its secrets and tokens, permanently.

    Raises:
        NotFound: see `find`.
    """
    row = connection.execute(
        update(ApiClient).where(*_is(merchant_id, id)).values(revoked_at=func.now()).returning(*_COLUMNS)
    ).one_or_none()
    if row is None:
        raise NotFound
    _audit(connection, actor, "revoked", merchant_id, _represent(row))


def _audit(connection: Connection, actor: str, action: str, merchant_id: UUID, shown: dict[str, Any]) -> None:
    detail = {"merchant_id": str(merchant_id), **{name: shown[name] for name in ("client_id", "name", "scopes")}}
    audit.record(connection, actor=actor, action=f"api_client.{action}", subject=shown["id"], detail=detail)
