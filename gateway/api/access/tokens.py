"""Access tokens: issuing them, and deciding whom a request speaks for.

A token is trusted without a database query: signing keys and revocations are kept in the process (keys.py,
revocations.py), and a signature that was verified is not verified again for `VERIFIED_SECONDS`, unless the keys change.
"""

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Flask, g
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
from gateway.security.signing_keys import CLOCK_TOLERANCE_SECONDS, key_ring

ALGORITHM = "RS256"
AUTHORIZATION_MAX_LENGTH = 4_096
"""A longer header is rejected without parsing. A token with all scopes has less than a quarter of this length."""
TOKEN_TYPE = "Bearer"  # noqa: S105  # the name of the scheme, not a secret
NO_STORE = {"Cache-Control": "no-store"}
VERIFIED_SECONDS = 10.0
"""How long the result of verifying a signature is cached, unless the signing keys change."""
VERIFIED_MAX = 10_000
"""Tokens whose verification is kept; when there are more, all are verified anew."""

ISSUED_AHEAD = timedelta(seconds=5)
"""Maximum difference between two hosts' measurements of the database's time by which `iat` may be in the future."""
HOST_CLOCK_LEEWAY_SECONDS = 10 * 365 * 86_400
"""Leeway of the library, which compares a token's times with this host's clock. It is so large that it has no effect:
the times are compared with the database's time afterwards."""

_REQUIRED_CLAIMS = ("sub", "scope", "iat", "exp", "jti", "iss", "aud")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a verified token speaks for."""

    subject: str
    merchant_id: UUID | None
    scopes: frozenset[str]
    token_id: str
    expires_at: datetime

    @property
    def actor(self) -> str:
        """Who this is, for the audit log."""
        kind = "client" if self.subject.startswith(CLIENT_ID_PREFIX) else "user"
        return f"{kind}:{self.subject}"


_verified: dict[bytes, tuple[Caller, float, int]] = {}
"""By the digest of an Authorization header: the caller, the monotonic time at which it must be verified again, and the
generation of the keys that verified it."""


def issue(identity: Identity, scopes: tuple[str, ...] | None = None) -> str:
    """A signed access token for `identity`, with all of its scopes or the given ones."""
    g.signing_key = key_ring().signing()
    now = utc_now()
    claims = {
        "iat": now,  # by the database's clock; the library would use this host's clock
        "exp": now + timedelta(seconds=settings().access_token_seconds),
        "merchant_id": str(identity.merchant_id) if identity.merchant_id else None,
        "scope": " ".join(identity.scopes if scopes is None else scopes),
    }
    token: str = create_access_token(
        identity.subject, additional_claims=claims, additional_headers={"kid": g.signing_key.key_id}
    )
    return token


def authenticate(header: str) -> Caller:
    """Whom a request with this `Authorization` header speaks for.

    Raises:
        AuthenticationRequired: it has no bearer token.
        InvalidToken: the token is malformed, forged, expired, revoked or not meant for this API.
    """
    if len(header) > AUTHORIZATION_MAX_LENGTH:
        raise InvalidToken
    digest = hashlib.sha256(header.encode(errors="replace")).digest()
    generation = key_ring().generation()
    caller, until, verified_by = _verified.get(digest, (None, 0.0, generation))
    if caller is None or time.monotonic() >= until or verified_by != generation:
        caller = _verify(header)
        _keep(digest, caller, generation)
    if revocations.known().include(caller.token_id, caller.subject):
        raise InvalidToken
    return caller


def _keep(digest: bytes, caller: Caller, generation: int) -> None:
    if len(_verified) >= VERIFIED_MAX:
        _verified.clear()
    lifetime = (caller.expires_at - utc_now()).total_seconds()
    _verified[digest] = (caller, time.monotonic() + min(VERIFIED_SECONDS, lifetime), generation)


def _verify(header: str) -> Caller:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != TOKEN_TYPE.lower() or not token:  # RFC 9110, section 11.1: in any case
        raise AuthenticationRequired("Send an access token: `Authorization: Bearer …`.")
    try:
        return _caller_of(decode_token(token.strip()))
    except (JWTExtendedException, PyJWTError, ValueError, RecursionError):
        raise InvalidToken from None


def demand(caller: Caller, *scopes: str) -> None:
    """Let only callers with all of `scopes` pass.

    Raises:
        InsufficientScope: the caller's token lacks one.
    """
    if not caller.scopes.issuperset(scopes):
        needed = " ".join(scopes)
        challenge = f'Bearer error="insufficient_scope", scope="{needed}"'
        raise InsufficientScope(f"This call needs the scope {needed}.", headers={"WWW-Authenticate": challenge})


def revoke(caller: Caller) -> None:
    """Stop trusting the caller's token."""
    until = caller.expires_at + timedelta(seconds=CLOCK_TOLERANCE_SECONDS)
    with db.autocommit() as connection:
        accounts.revoke_token(connection, caller.token_id, until)
    revocations.known().announce()


def _caller_of(claims: dict[str, Any]) -> Caller:
    merchant = claims.get("merchant_id")
    merchant_id = parse_id(merchant) if isinstance(merchant, str) else None
    complete = all(claims.get(name) for name in _REQUIRED_CLAIMS) and isinstance(claims["scope"], str)
    if not complete or claims.get("type") != "access" or (merchant is not None and merchant_id is None):
        raise InvalidToken
    now = utc_now()
    issued_at, expires_at = (datetime.fromtimestamp(int(claims[name]), UTC) for name in ("iat", "exp"))
    if expires_at <= now or issued_at > now + ISSUED_AHEAD:
        raise InvalidToken
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


def install(app: Flask) -> None:
    """Configure token handling for `app`."""
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
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=config.access_token_seconds),
    )
    revocations.known()  # a folder in which it cannot work is told at the start, not by the first request
    manager = JWTManager(app)
    manager.encode_key_loader(lambda _identity: g.signing_key.private)
    manager.decode_key_loader(_verification_key)
