"""Access tokens: issuing them, and deciding whom a request speaks for.

A token is trusted without a database query: signing keys and revocations are kept in the process and read again at most
every second. So another process's revocation is noticed within a second; the process that revoked knows at once. A
signature that was verified is not verified again for `VERIFIED_SECONDS`.
"""

import hashlib
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Flask, g, request
from flask_jwt_extended import JWTManager, create_access_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt import PyJWTError

from gateway import db
from gateway.config import ACCESS_TOKEN_SECONDS_MAX, settings
from gateway.domain import merchants
from gateway.domain.api_clients import CLIENT_ID_PREFIX
from gateway.domain.ids import parse_id
from gateway.domain.merchants import Identity, Revocations
from gateway.errors import AuthenticationRequired, DatabaseUnavailable, InsufficientScope, InvalidToken
from gateway.keys import CLOCK_TOLERANCE_SECONDS, key_ring

ALGORITHM = "RS256"
TOKEN_TYPE = "Bearer"  # noqa: S105  # the name of the scheme, not a secret
NO_STORE = {"Cache-Control": "no-store"}
REVOCATIONS_SECONDS = 1.0
"""The longest that a revocation of another process stays unknown here."""
ALL_REVOCATIONS_SECONDS = 30.0
"""How often all of them are read; in between only those of `RECENT`, or whoever logs out often costs everybody."""
RECENT = timedelta(seconds=60)
"""Longer than from one reading of all to the next, and than the commit of a revocation may take."""
VERIFIED_SECONDS = 10.0
"""How long the outcome of verifying a signature is kept: the longest that a removed signing key still works."""
VERIFIED_MAX = 10_000
"""Tokens whose verification is kept; when there are more, all are verified anew."""

ISSUED_AHEAD_SECONDS = 5
"""How far ahead the clock of the host that issued a token may be."""
LONGEST_TRUST = timedelta(seconds=ACCESS_TOKEN_SECONDS_MAX + CLOCK_TOLERANCE_SECONDS)
"""How long a revoked client is remembered: until its last token has expired by any host's clock."""

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


class _Trust:
    """What was revoked, as this process knows it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = self._failed_at = -REVOCATIONS_SECONDS
        self._all_read_at = -ALL_REVOCATIONS_SECONDS
        self._stored = Revocations(frozenset(), frozenset())
        self._own: dict[str, datetime] = {}
        """Token ids and client_ids that this process revoked, each with the time when its last token has expired."""

    def is_lost(self, caller: Caller) -> bool:
        """Whether the caller's token or client was revoked."""
        self._refresh()
        return (
            caller.token_id in self._stored.token_ids
            or caller.subject in self._stored.client_ids
            or caller.token_id in self._own
            or caller.subject in self._own
        )

    def note(self, name: str, until: datetime) -> None:
        """Remember at once what this process just revoked."""
        now = datetime.now(UTC)
        with self._lock:
            self._own = {name: until for name, until in self._own.items() if until > now} | {name: until}

    def _refresh(self) -> None:
        if time.monotonic() - self._read_at < REVOCATIONS_SECONDS:
            return
        with self._lock:  # one thread reads for all; without an answer from the database nobody is let in
            now = time.monotonic()
            if now - self._read_at < REVOCATIONS_SECONDS:
                return
            if now - self._failed_at < REVOCATIONS_SECONDS:
                raise DatabaseUnavailable  # who waited for the lock does not wait for a second failure
            read_all = now - self._all_read_at >= ALL_REVOCATIONS_SECONDS
            try:
                with db.autocommit() as connection:
                    found = merchants.revocations(connection, LONGEST_TRUST if read_all else RECENT)
            except db.UNAVAILABLE:
                self._failed_at = time.monotonic()
                raise
            self._stored = found if read_all else self._stored | found
            self._read_at = now
            self._all_read_at = now if read_all else self._all_read_at


_trust = _Trust()
_verified: dict[bytes, tuple[Caller, float]] = {}
"""By the digest of an Authorization header: whom it speaks for, and until when (monotonic) that needs no new look."""


def issue(identity: Identity, scopes: tuple[str, ...] | None = None) -> str:
    """A signed access token for `identity`, with all of its scopes or the given ones."""
    g.signing_key = key_ring().signing()
    claims = {
        "merchant_id": str(identity.merchant_id) if identity.merchant_id else None,
        "scope": " ".join(identity.scopes if scopes is None else scopes),
    }
    token: str = create_access_token(
        identity.subject, additional_claims=claims, additional_headers={"kid": g.signing_key.key_id}
    )
    return token


def authenticate() -> Caller:
    """Whom the current request speaks for.

    Raises:
        AuthenticationRequired: it has no bearer token.
        InvalidToken: the token is malformed, forged, expired, revoked or not meant for this API.
    """
    header = request.headers.get("Authorization", "")
    digest = hashlib.sha256(header.encode(errors="replace")).digest()
    caller, until = _verified.get(digest, (None, 0.0))
    if caller is None or time.monotonic() >= until:
        caller = _verify(header)
        _keep(digest, caller)
    if _trust.is_lost(caller):
        raise InvalidToken
    return caller


def _keep(digest: bytes, caller: Caller) -> None:
    if len(_verified) >= VERIFIED_MAX:
        _verified.clear()
    lifetime = (caller.expires_at - datetime.now(UTC)).total_seconds()
    _verified[digest] = (caller, time.monotonic() + min(VERIFIED_SECONDS, lifetime))


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
    """Stop trusting the caller's token, here at once and elsewhere within `REVOCATIONS_SECONDS`."""
    until = caller.expires_at + timedelta(seconds=CLOCK_TOLERANCE_SECONDS)
    with db.autocommit() as connection:
        merchants.revoke_token(connection, caller.token_id, until)
    _trust.note(caller.token_id, until)


def note_revoked_client(client_id: str) -> None:
    """Stop trusting a client's tokens here at once; elsewhere its committed revocation is noticed."""
    _trust.note(client_id, datetime.now(UTC) + LONGEST_TRUST)


def _caller_of(claims: dict[str, Any]) -> Caller:
    merchant = claims.get("merchant_id")
    merchant_id = parse_id(merchant) if isinstance(merchant, str) else None
    complete = all(claims.get(name) for name in _REQUIRED_CLAIMS) and isinstance(claims["scope"], str)
    if not complete or claims.get("type") != "access" or (merchant is not None and merchant_id is None):
        raise InvalidToken
    expires_at = datetime.fromtimestamp(claims["exp"], UTC)
    if expires_at <= datetime.now(UTC):  # the leeway is for tokens of a host whose clock is ahead, not for old ones
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
        JWT_DECODE_LEEWAY=ISSUED_AHEAD_SECONDS,
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=config.access_token_seconds),
    )
    manager = JWTManager(app)
    manager.encode_key_loader(lambda _identity: g.signing_key.private)
    manager.decode_key_loader(_verification_key)
