"""Merchants and their owners, operators, authentication of clients, and revocations."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, literal, select, union_all
from sqlalchemy.dialects.postgresql import insert as insert_or_skip

from gateway.domain.merchants import api_clients
from gateway.domain.merchants.api_clients import Credentials
from gateway.domain.shared import audit
from gateway.errors import EmailTaken
from gateway.ids import new_id, rfc3339, utc_now
from gateway.models.merchants import ApiClient, Merchant, RevokedToken, User
from gateway.security.client_secrets import secret_matches

MERCHANT_SCOPES = (
    "transactions:read",
    "transactions:write",
    "refunds:write",
    "settlements:read",
    "webhooks:manage",
    "clients:manage",
)
OPERATOR_SCOPES = ("operations:read", "operations:write")

FIRST_CLIENT_NAME = "default"


@dataclass(frozen=True, slots=True)
class Identity:
    """The subject of a token: a user (by id) or an API client (by client_id). Operators have no merchant."""

    subject: str
    merchant_id: UUID | None
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Registration:
    """A new merchant with its owner and first API client."""

    user: dict[str, Any]
    merchant: dict[str, Any]
    client: Credentials
    owner: Identity


@dataclass(frozen=True, slots=True)
class StoredUser:
    """A user, as a log-in needs it."""

    identity: Identity
    password_hash: str


@dataclass(frozen=True, slots=True)
class Revocations:
    """Revoked token ids and client_ids whose tokens may not have expired."""

    token_ids: frozenset[str]
    client_ids: frozenset[str]

    def __or__(self, other: "Revocations") -> "Revocations":
        return Revocations(self.token_ids | other.token_ids, self.client_ids | other.client_ids)


def _insert_user(connection: Connection, email: str, password_hash: str, role: str, merchant_id: UUID | None) -> Any:
    user = connection.execute(
        insert_or_skip(User)
        .values(id=new_id(), merchant_id=merchant_id, email=email, password_hash=password_hash, role=role)
        .on_conflict_do_nothing(index_elements=[User.email])
        .returning(User.id, User.created_at)
    ).one_or_none()
    if user is None:
        raise EmailTaken
    return user


def register(
    connection: Connection, *, email: str, password_hash: str, business_name: str, fee_basis_points: int
) -> Registration:
    """Create a merchant, its owner and its first API client. `email` is in lower case.

    Raises:
        EmailTaken: a user with this email exists; the caller must roll back.
    """
    merchant_id = new_id()
    merchant = connection.execute(
        insert(Merchant)
        .values(id=merchant_id, business_name=business_name, fee_basis_points=fee_basis_points)
        .returning(Merchant.created_at)
    ).one()
    user = _insert_user(connection, email, password_hash, "owner", merchant_id)
    _, credentials = api_clients.insert_new(connection, merchant_id, FIRST_CLIENT_NAME, MERCHANT_SCOPES)
    return Registration(
        user={
            "id": str(user.id),
            "object": "user",
            "email": email,
            "role": "owner",
            "created_at": rfc3339(user.created_at),
        },
        merchant={
            "id": str(merchant_id),
            "object": "merchant",
            "business_name": business_name,
            "created_at": rfc3339(merchant.created_at),
        },
        client=credentials,
        owner=Identity(str(user.id), merchant_id, MERCHANT_SCOPES),
    )


def create_operator(connection: Connection, *, email: str, password_hash: str, actor: str) -> UUID:
    """Create an operator of the gateway; return the id. `email` is in lower case.

    Raises:
        EmailTaken: a user with this email exists; the caller must roll back.
    """
    user_id: UUID = _insert_user(connection, email, password_hash, "operator", None).id
    audit.record(connection, actor=actor, action="operator.created", subject=str(user_id), detail={"email": email})
    return user_id


def role_of(connection: Connection, email: str) -> str | None:
    """Return the role of the user with this email in lower case, if there is one."""
    return connection.execute(select(User.role).where(User.email == email)).scalar_one_or_none()


def find_user(connection: Connection, email: str) -> StoredUser | None:
    """Return the user with this email in lower case, if there is one."""
    row = connection.execute(
        select(User.id, User.merchant_id, User.role, User.password_hash).where(User.email == email)
    ).one_or_none()
    if row is None:
        return None
    scopes = OPERATOR_SCOPES if row.role == "operator" else MERCHANT_SCOPES
    return StoredUser(Identity(str(row.id), row.merchant_id, scopes), row.password_hash)


def authenticate_client(connection: Connection, client_id: str, client_secret: str) -> Identity | None:
    """Return the client with this id unless it is revoked, or the secret is neither the current nor the last one."""
    row = connection.execute(
        select(
            ApiClient.merchant_id,
            ApiClient.scopes,
            ApiClient.secret_hash,
            ApiClient.previous_secret_hash,
            ApiClient.previous_secret_until,
        ).where(ApiClient.client_id == client_id, ApiClient.revoked_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    accepted: Sequence[bytes] = [row.secret_hash]
    if row.previous_secret_hash is not None and row.previous_secret_until > utc_now():
        accepted = [row.secret_hash, row.previous_secret_hash]
    if not any(secret_matches(client_secret, stored) for stored in accepted):
        return None
    return Identity(client_id, row.merchant_id, tuple(row.scopes))


def revoke_token(connection: Connection, token_id: str, expires_at: datetime) -> None:
    """Revoke an access token. Repeating this changes nothing."""
    connection.execute(
        insert_or_skip(RevokedToken).values(jti=token_id, expires_at=expires_at).on_conflict_do_nothing()
    )


def revocations(connection: Connection, within: timedelta) -> Revocations:
    """Return what was revoked `within` this time, which should be the maximum lifetime of a token."""
    since = func.now() - within
    tokens = select(literal("token"), RevokedToken.jti).where(
        RevokedToken.revoked_at > since, RevokedToken.expires_at > func.now()
    )
    clients = select(literal("client"), ApiClient.client_id).where(ApiClient.revoked_at > since)
    rows = connection.execute(union_all(tokens, clients)).all()
    return Revocations(
        token_ids=frozenset(name for kind, name in rows if kind == "token"),
        client_ids=frozenset(name for kind, name in rows if kind == "client"),
    )
