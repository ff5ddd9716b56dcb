"""The token endpoint (RFC 6749) for programs, which send client credentials in the form or by HTTP Basic."""

import base64
import binascii
from typing import Annotated, Any, Literal
from urllib.parse import unquote_plus

from flask import request
from pydantic import BaseModel, Field

from gateway import db
from gateway.api.access import tokens
from gateway.api.http.problems import OAuthError
from gateway.api.http.request_content import form_parameters
from gateway.api.http.routes import ApiResponse, Routes
from gateway.api.http.schemas import ResponseModel
from gateway.api.http.validation import guarded_parameters
from gateway.config import settings
from gateway.domain.merchants import accounts
from gateway.domain.merchants.accounts import Identity
from gateway.errors import CardNumberRejected, ValidationFailed

GRANT_TYPE = "client_credentials"
BASIC_CHALLENGE = 'Basic realm="payment-gateway", charset="UTF-8"'

routes = Routes("Authentication")


class InvalidRequest(OAuthError):
    """The token request lacks a parameter or repeats one."""

    code = "invalid_request"
    remedy = "Send each parameter once, and the credentials either in the form or by HTTP Basic."


class InvalidClient(OAuthError):
    """The client's credentials are missing or wrong."""

    status = 401
    code = "invalid_client"
    remedy = "Check client_id and client_secret; after a rotation, the previous secret is valid for 24 hours."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": BASIC_CHALLENGE})


class UnsupportedGrantType(OAuthError):
    """The grant type is not client_credentials."""

    code = "unsupported_grant_type"
    remedy = "Send grant_type=client_credentials."


class InvalidScope(OAuthError):
    """The client does not have one of the requested scopes."""

    code = "invalid_scope"
    remedy = "Request scopes that the client has, or omit `scope` to get all of them."


class TokenForm(BaseModel):
    """A token request. The credentials may be sent by HTTP Basic instead."""

    grant_type: Literal["client_credentials"]
    client_id: Annotated[str, Field(description="The id of the API client")] = ""
    client_secret: Annotated[str, Field(description="The secret of the API client")] = ""
    scope: Annotated[
        str, Field(description="The requested scopes, separated by spaces; by default, all scopes of the client")
    ] = ""


class ClientToken(ResponseModel):
    """An access token of an API client (RFC 6749, section 5.1)."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, Field(description="Seconds until the token expires")]
    scope: str


@routes.post(
    "/oauth/token",
    public=True,
    form=TokenForm,
    responses={200: ClientToken},
    errors=(InvalidRequest, InvalidClient, UnsupportedGrantType, InvalidScope, CardNumberRejected),
)
def token() -> ApiResponse:
    """Get an access token with the id and the secret of an API client."""
    form = _form()
    grant_type = form.get("grant_type")
    if grant_type is None:
        raise InvalidRequest("grant_type is missing.")
    if grant_type != GRANT_TYPE:
        raise UnsupportedGrantType
    client_id, client_secret = _credentials(form)
    with db.autocommit() as connection:
        client = accounts.authenticate_client(connection, client_id, client_secret)
    if client is None:
        raise InvalidClient
    granted = _granted(client, form.get("scope", ""))
    content: dict[str, Any] = {
        "access_token": tokens.issue(client, granted),
        "token_type": tokens.TOKEN_TYPE,
        "expires_in": settings().access_token_seconds,
        "scope": " ".join(granted),
    }
    return ApiResponse(content, 200, {**tokens.NO_STORE, "Pragma": "no-cache"})


def _form() -> dict[str, str]:
    try:
        parameters = guarded_parameters(form_parameters())
    except CardNumberRejected:
        raise
    except (ValidationFailed, UnicodeDecodeError):
        raise InvalidRequest("A parameter is repeated or is not UTF-8, or there are too many parameters.") from None
    return {
        name: value for name, value in parameters.items() if value
    }  # section 3.2: a parameter without a value is omitted


def _credentials(form: dict[str, str]) -> tuple[str, str]:
    header = request.headers.get("Authorization")
    if header is None:
        if "client_id" not in form or "client_secret" not in form:
            raise InvalidClient("Send client_id and client_secret, in the form or by HTTP Basic.")
        return form["client_id"], form["client_secret"]
    if "client_secret" in form:
        raise InvalidRequest("Send the credentials either in the form or by HTTP Basic.")
    client_id, client_secret = _basic(header)
    if form.get("client_id", client_id) != client_id:
        raise InvalidRequest("The client_id of the form differs from that of the Authorization header.")
    return client_id, client_secret


def _basic(header: str) -> tuple[str, str]:
    if len(header) > tokens.AUTHORIZATION_MAX_LENGTH:
        raise InvalidClient("The Authorization header is too long.")
    scheme, _, encoded = header.partition(" ")
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidClient("The Authorization header is not valid HTTP Basic.") from None
    client_id, separator, client_secret = decoded.partition(":")
    client_id, client_secret = unquote_plus(client_id), unquote_plus(client_secret)  # section 2.3.1
    if scheme.lower() != "basic" or not separator or "\x00" in client_id:
        raise InvalidClient("The Authorization header is not valid HTTP Basic.")
    return client_id, client_secret


def _granted(client: Identity, requested: str) -> tuple[str, ...]:
    wanted = set(requested.split())
    if not wanted <= set(client.scopes):
        raise InvalidScope
    return tuple(scope for scope in client.scopes if scope in wanted) if wanted else client.scopes
