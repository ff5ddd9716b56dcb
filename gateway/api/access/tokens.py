"""Access tokens: issue and verify them.

flask-jwt-extended signs and verifies; `install` registers its loaders, so its `jwt_required` and `current_user` work.
The API's own views use `authenticate`, which caches verified tokens. A token is trusted without a database query: the
process holds the signing keys (signing_keys.py) and the revocations (revocations.py). It is verified again after
`VERIFIED_SECONDS`, or when the keys change.
"""

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Flask
from flask_jwt_extended import JWTManager, create_access_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt import PyJWTError

from gateway import db
from gateway.api.access import revocations
from gateway.config import settings
from gateway.domain.merchants import accounts
from gateway.domain.merchants.accounts import Identity
from gateway.domain.merchants.api_clients import CLIENT_ID_PREFIX
from gateway.errors import AuthenticationRequired, InsufficientScope, InvalidToken
from gateway.ids import parse_id, utc_now
from gateway.security.signing_keys import CLOCK_TOLERANCE_SECONDS, SigningKey, key_ring

ALGORITHM = "RS256"
AUTHORIZATION_MAX_LENGTH = 4_096
"""A longer header is rejected without parsing. A token with all scopes has less than a quarter of this length."""
TOKEN_TYPE = "Bearer"  # noqa: S105  # the name of the scheme, not a secret
NO_STORE = {"Cache-Control": "no-store"}
MISSING_TOKEN = "Send an access token: `Authorization: Bearer …`."  # noqa: S105  # a message
VERIFIED_SECONDS = 10.0
"""Maximum age of a cached verification. A change of the signing keys ends it earlier."""
VERIFIED_MAX = 10_000
"""Maximum number of cached tokens. When it is reached, the cache is emptied."""

ISSUED_AHEAD = timedelta(seconds=5)
"""Maximum difference between two hosts' measurements of the database's time by which `iat` may be in the future."""
HOST_CLOCK_LEEWAY_SECONDS = 10 * 365 * 86_400
"""Leeway of the library, which compares a token's times with this host's clock. It is so large that it has no effect:
`_caller_of` compares the times with the database's time."""

_REQUIRED_CLAIMS = ("sub", "scope", "iat", "exp", "jti", "iss", "aud")


@dataclass(frozen=True, slots=True)
class Caller:
    """The user or API client that a verified token was issued to."""

    subject: str
    merchant_id: UUID | None
    scopes: frozenset[str]
    token_id: str
    expires_at: datetime

    @property
    def actor(self) -> str:
        """Return the name of the caller in the audit log."""
        kind = "client" if self.subject.startswith(CLIENT_ID_PREFIX) else "user"
        return f"{kind}:{self.subject}"


@dataclass(frozen=True, slots=True)
class _Grant:
    """A token to be issued, in flask-jwt-extended's terms its identity: the loaders read it."""

    identity: Identity
    scopes: tuple[str, ...]
    key: SigningKey

    def claims(self) -> dict[str, Any]:
        """Return the claims that the library does not set, and those that it would set by this host's clock."""
        now = utc_now()
        return {
            "iat": now,
            "exp": now + timedelta(seconds=settings().access_token_seconds),
            "merchant_id": str(self.identity.merchant_id) if self.identity.merchant_id else None,
            "scope": " ".join(self.scopes),
        }


@dataclass(frozen=True, slots=True)
class _Verified:
    """A cached token."""

    caller: Caller
    until: float
    """By the monotonic clock."""
    generation: int
    """The generation of the signing keys that verified it."""


_verified: dict[bytes, _Verified] = {}
"""Verified tokens by the digest of the Authorization header."""


def issue(identity: Identity, scopes: tuple[str, ...] | None = None) -> str:
    """Return a signed access token for `identity`, with the given scopes or all of the identity's scopes."""
    granted = identity.scopes if scopes is None else scopes
    token: str = create_access_token(_Grant(identity, tuple(granted), key_ring().signing()))
    return token


def authenticate(header: str) -> Caller:
    """Return the caller with this `Authorization` header.

    Raises:
        AuthenticationRequired: it has no bearer token.
        InvalidToken: the token is malformed, forged, expired, revoked or not meant for this API.
    """
    if len(header) > AUTHORIZATION_MAX_LENGTH:
        raise InvalidToken
    digest = hashlib.sha256(header.encode(errors="replace")).digest()
    generation = key_ring().generation()
    verified = _verified.get(digest)
    if verified is None or time.monotonic() >= verified.until or verified.generation != generation:
        verified = _verify(header, generation)
        if len(_verified) >= VERIFIED_MAX:
            _verified.clear()
        _verified[digest] = verified
    if revocations.known().include(verified.caller.token_id, verified.caller.subject):
        raise InvalidToken
    return verified.caller


def _verify(header: str, generation: int) -> _Verified:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != TOKEN_TYPE.lower() or not token:  # RFC 9110, section 11.1: in any case
        raise AuthenticationRequired(MISSING_TOKEN)
    try:
        caller = _caller_of(decode_token(token.strip()))
    except (JWTExtendedException, PyJWTError, ValueError, OverflowError, OSError, RecursionError):
        raise InvalidToken from None
    if caller is None:
        raise InvalidToken
    lifetime = (caller.expires_at - utc_now()).total_seconds()
    return _Verified(caller, time.monotonic() + min(VERIFIED_SECONDS, lifetime), generation)


def require_scopes(caller: Caller, *scopes: str) -> None:
    """Raise an error unless the caller has all of `scopes`.

    Raises:
        InsufficientScope: the caller's token lacks one.
    """
    if not caller.scopes.issuperset(scopes):
        needed = " ".join(scopes)
        challenge = f'Bearer error="insufficient_scope", scope="{needed}"'
        raise InsufficientScope(f"This call needs the scope {needed}.", headers={"WWW-Authenticate": challenge})


def revoke(caller: Caller) -> None:
    """Revoke the caller's token."""
    until = caller.expires_at + timedelta(seconds=CLOCK_TOLERANCE_SECONDS)
    with db.autocommit() as connection:
        accounts.revoke_token(connection, caller.token_id, until)
    revocations.known().announce()


def _caller_of(claims: dict[str, Any]) -> Caller | None:
    """Return the caller that verified claims name; None if a claim is missing, malformed or not valid now."""
    merchant = claims.get("merchant_id")
    merchant_id = parse_id(merchant) if isinstance(merchant, str) else None
    complete = all(claims.get(name) for name in _REQUIRED_CLAIMS) and isinstance(claims["scope"], str)
    if not complete or claims.get("type") != "access" or (merchant is not None and merchant_id is None):
        return None
    now = utc_now()
    issued_at, expires_at = (datetime.fromtimestamp(int(claims[name]), UTC) for name in ("iat", "exp"))
    if expires_at <= now or issued_at > now + ISSUED_AHEAD:
        return None
    return Caller(
        subject=claims["sub"],
        merchant_id=merchant_id,
        scopes=frozenset(claims["scope"].split()),
        token_id=claims["jti"],
        expires_at=expires_at,
    )


def _verification_key(header: dict[str, Any], _claims: dict[str, Any]) -> Any:
    key_id = header.get("kid")
    key = key_ring().find(key_id) if isinstance(key_id, str) else None
    if key is None:
        raise InvalidToken
    return key.public


def install(app: Flask) -> JWTManager:
    """Configure flask-jwt-extended for `app`."""
    config = settings()
    app.config.update(
        JWT_ALGORITHM=ALGORITHM,
        JWT_DECODE_ALGORITHMS=[ALGORITHM],
        JWT_COOKIE_CSRF_PROTECT=False,  # no cookies, so no csrf claim
        JWT_ENCODE_ISSUER=config.jwt_issuer,
        JWT_DECODE_ISSUER=config.jwt_issuer,
        JWT_ENCODE_AUDIENCE=config.jwt_audience,
        JWT_DECODE_AUDIENCE=config.jwt_audience,
        JWT_ENCODE_NBF=False,
        JWT_DECODE_LEEWAY=HOST_CLOCK_LEEWAY_SECONDS,
    )
    revocations.known()  # fails now, not in the first request, if its folder cannot be used
    manager = JWTManager(app)
    manager.user_identity_loader(lambda grant: grant.identity.subject)
    manager.additional_claims_loader(lambda grant: grant.claims())
    manager.additional_headers_loader(lambda grant: {"kid": grant.key.key_id})
    manager.encode_key_loader(lambda grant: grant.key.private)
    manager.decode_key_loader(_verification_key)
    manager.token_in_blocklist_loader(lambda _header, claims: revocations.known().include(claims["jti"], claims["sub"]))
    manager.token_verification_loader(lambda _header, claims: _caller_of(claims) is not None)
    manager.user_lookup_loader(lambda _header, claims: _caller_of(claims))
    return manager
