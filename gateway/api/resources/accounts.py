"""Registration, log-in and log-out of users, and the public keys that verify access tokens."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.access import sign_in, tokens
from gateway.api.http.parameters import NotBlank
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import ResponseModel, Timestamp
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
    """A new merchant and its first user."""

    email: Email
    password: NewPassword = Field(examples=["correct horse battery staple"])
    business_name: Annotated[
        str,
        Field(min_length=1, max_length=BUSINESS_NAME_MAX_LENGTH, examples=["Ada's Bookshop"]),
        NotBlank,
    ]


class Login(RequestModel):
    """The credentials of a user."""

    email: Annotated[str, Field(max_length=EMAIL_MAX_LENGTH, examples=["ada@example.com"])]
    password: Annotated[
        str, Field(min_length=1, max_length=PASSWORD_MAX_LENGTH, examples=["correct horse battery staple"])
    ]


class User(ResponseModel):
    """A person with access to a merchant's account."""

    id: str
    object: Literal["user"]
    email: str
    role: Literal["owner"]
    created_at: Timestamp


class Merchant(ResponseModel):
    """A business that accepts payments."""

    id: str
    object: Literal["merchant"]
    business_name: str
    created_at: Timestamp


class ClientCredentials(ResponseModel):
    """The credentials of an API client. The secret is shown only in this response."""

    client_id: str
    client_secret: str


class RegisteredMerchant(ResponseModel):
    """A new merchant, its first user with an access token, and its first API client."""

    user: User
    merchant: Merchant
    access_token: str
    client: ClientCredentials


class UserToken(ResponseModel):
    """An access token of a user."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, Field(description="Seconds until the token expires")]


class JsonWebKey(ResponseModel):
    """The public key of a key pair that signs access tokens (RFC 7517)."""

    kty: Literal["RSA"]
    n: str
    e: str
    use: Literal["sig"]
    alg: Literal["RS256"]
    kid: str


class JsonWebKeySet(ResponseModel):
    """The public keys that verify access tokens."""

    keys: list[JsonWebKey]


@routes.post("/auth/register", public=True, responses={201: RegisteredMerchant}, errors=(EmailTaken, TooManyLogins))
def register(body: Registration) -> ApiResponse:
    """Register a merchant, with its first user and its first API client.

    The response contains the secret of the API client, which is not shown again.
    """
    password_hash = hash_password(body.password)  # before the database: it takes a while
    with db.begin() as connection:
        registered = accounts.register(
            connection,
            email=body.email,
            password_hash=password_hash,
            business_name=body.business_name,
            fee_basis_points=settings().fee_basis_points,
        )
    content = {
        "user": registered.user,
        "merchant": registered.merchant,
        "access_token": tokens.issue(registered.owner),
        "client": {"client_id": registered.client.client_id, "client_secret": registered.client.client_secret},
    }
    return ApiResponse(content, 201, {**tokens.NO_STORE, **sign_in.device_headers(body.email, password_hash)})


@routes.post("/auth/login", public=True, responses={200: UserToken}, errors=(InvalidCredentials, TooManyLogins))
def login(context: RequestContext, body: Login) -> ApiResponse:
    """Log in with email and password to get an access token.

    Store the `X-Device-Token` of the response, and send it with the next log-in from the same device; browsers send the
    cookie. Wrong passwords from unknown devices then do not limit the log-ins from this device.
    """
    email = body.email.lower()
    user, device = sign_in.check_password(context.request, email, body.password)
    content = {
        "access_token": tokens.issue(user.identity),
        "token_type": tokens.TOKEN_TYPE,
        "expires_in": settings().access_token_seconds,
    }
    return ApiResponse(content, 200, {**tokens.NO_STORE, **sign_in.device_headers(email, user.password_hash, device)})


@routes.post("/auth/logout", responses={204: None})
def logout(context: RequestContext) -> ApiResponse:
    """Revoke the access token of this request. All servers reject it within a second."""
    tokens.revoke(context.caller)
    return ApiResponse(status=204)


@routes.get("/.well-known/jwks.json", public=True, responses={200: JsonWebKeySet})
def jwks() -> ApiResponse:
    """List the public keys that verify access tokens (RFC 7517)."""
    return ApiResponse(key_ring().as_jwks(), 200, {"Cache-Control": f"public, max-age={JWKS_CACHE_SECONDS}"})
