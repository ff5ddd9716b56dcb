"""People and programs sign in: registration, login, logout, and the keys that verify tokens."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.access import sign_in, tokens
from gateway.api.http.parameters import NotBlank
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Time
from gateway.api.http.validation import RequestModel
from gateway.config import settings
from gateway.domain.merchants import accounts
from gateway.domain.merchants.emails import EMAIL_MAX_LENGTH, normalize_email
from gateway.errors import EmailTaken, InvalidCredentials
from gateway.security.passwords import PASSWORD_MAX_LENGTH, PASSWORD_MIN_LENGTH, TooManyLogins, hash_password
from gateway.security.signing_keys import JWKS_CACHE_SECONDS, key_ring

BUSINESS_NAME_MAX_LENGTH = 255

routes = Routes("Authentication")


def _email(email: str) -> str:
    try:
        return normalize_email(email)
    except ValueError as exc:
        raise PydanticCustomError("invalid_email", "{reason}", {"reason": str(exc)}) from None


Email = Annotated[str, Field(max_length=EMAIL_MAX_LENGTH, examples=["ada@example.com"]), AfterValidator(_email)]
NewPassword = Annotated[str, Field(min_length=PASSWORD_MIN_LENGTH, max_length=PASSWORD_MAX_LENGTH)]


class Registration(RequestModel):
    """A business that wants to take payments, and the person who owns its account."""

    email: Email
    password: NewPassword = Field(examples=["correct horse battery staple"])
    business_name: Annotated[
        str,
        Field(min_length=1, max_length=BUSINESS_NAME_MAX_LENGTH, examples=["Ada's Bookshop"]),
        NotBlank,
    ]


class Login(RequestModel):
    """Email and password of a user."""

    email: Annotated[str, Field(max_length=EMAIL_MAX_LENGTH, examples=["ada@example.com"])]
    password: Annotated[
        str, Field(min_length=1, max_length=PASSWORD_MAX_LENGTH, examples=["correct horse battery staple"])
    ]


class User(AnswerModel):
    """A person who acts for a merchant."""

    id: str
    object: Literal["user"]
    email: str
    role: Literal["owner"]
    created_at: Time


class Merchant(AnswerModel):
    """A business that takes payments."""

    id: str
    object: Literal["merchant"]
    business_name: str
    created_at: Time


class ClientCredentials(AnswerModel):
    """The credentials of an API client. The secret is shown this once."""

    client_id: str
    client_secret: str


class RegisteredMerchant(AnswerModel):
    """A new merchant, its owner with an access token, and its first API client."""

    user: User
    merchant: Merchant
    access_token: str
    client: ClientCredentials


class UserToken(AnswerModel):
    """An access token for a user."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, Field(description="Seconds until the token expires")]


class JsonWebKey(AnswerModel):
    """The public half of a signing key (RFC 7517)."""

    kty: Literal["RSA"]
    n: str
    e: str
    use: Literal["sig"]
    alg: Literal["RS256"]
    kid: str


class JsonWebKeySet(AnswerModel):
    """The keys that verify access tokens."""

    keys: list[JsonWebKey]


@routes.post("/auth/register", public=True, answers={201: RegisteredMerchant}, errors=(EmailTaken, TooManyLogins))
def register(call: Call, body: Registration) -> Reply:  # noqa: ARG001
    """Make a merchant, its first user and a first API client."""
    password_hash = hash_password(body.password)  # before the database: it takes a while
    with db.begin() as connection:
        made = accounts.register(
            connection,
            email=body.email,
            password_hash=password_hash,
            business_name=body.business_name,
            fee_basis_points=settings().fee_basis_points,
        )
    answer = {
        "user": made.user,
        "merchant": made.merchant,
        "access_token": tokens.issue(made.owner),
        "client": {"client_id": made.client.client_id, "client_secret": made.client.client_secret},
    }
    return Reply(answer, 201, {**tokens.NO_STORE, **sign_in.device_headers(body.email, password_hash)})


@routes.post("/auth/login", public=True, answers={200: UserToken}, errors=(InvalidCredentials, TooManyLogins))
def login(call: Call, body: Login) -> Reply:
    """Get an access token with email and password.

    Store the `X-Device-Token` of the response, and send it with the next log-in from the same device; browsers use the
    cookie. Wrong passwords from unknown devices then do not limit the log-ins of this device.
    """
    email = body.email.lower()
    user, device = sign_in.check_password(call.request, email, body.password)
    answer = {
        "access_token": tokens.issue(user.identity),
        "token_type": tokens.TOKEN_TYPE,
        "expires_in": settings().access_token_seconds,
    }
    return Reply(answer, 200, {**tokens.NO_STORE, **sign_in.device_headers(email, user.password_hash, device)})


@routes.post("/auth/logout", answers={204: None})
def logout(call: Call) -> Reply:
    """Revoke the access token in hand; other processes refuse it within a second."""
    tokens.revoke(call.caller)
    return Reply(status=204)


@routes.get("/.well-known/jwks.json", public=True, answers={200: JsonWebKeySet})
def jwks(call: Call) -> Reply:  # noqa: ARG001
    """The public keys that verify access tokens (RFC 7517)."""
    return Reply(key_ring().as_jwks(), 200, {"Cache-Control": f"public, max-age={JWKS_CACHE_SECONDS}"})
