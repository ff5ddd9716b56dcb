"""Error responses: `application/problem+json` (RFC 9457), without internal details."""

import json
from typing import Any, TypedDict

from flask import Flask, Response, request
from flask_jwt_extended import JWTManager
from loguru import logger
from psycopg.errors import ForeignKeyViolation
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import HTTPException

from gateway.api.access.tokens import MISSING_TOKEN
from gateway.api.http.middleware import request_id
from gateway.db import UNAVAILABLE
from gateway.errors import (
    AuthenticationRequired,
    BodyTooLarge,
    DatabaseUnavailable,
    FieldError,
    GatewayError,
    InvalidToken,
    MethodNotAllowed,
    NotFound,
    PermanentError,
    UnsupportedMediaType,
)
from gateway.reasons import reason_of

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "2"
"""The time after which a client should repeat a request that got status 503."""
BEARER_CHALLENGE = 'Bearer realm="payment-gateway"'
INVALID_TOKEN_CHALLENGE = 'Bearer error="invalid_token"'  # noqa: S105  # not a secret


class Problem(TypedDict, total=False):
    """A problem document; `errors` only with status 422."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError]


class OAuthError(PermanentError):
    """The token request failed. The response has the form of RFC 6749, section 5.2."""

    def as_body(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {"error": self.code, "error_description": self.detail}


_OF_STATUS: dict[int, type[GatewayError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: BodyTooLarge,
    415: UnsupportedMediaType,
}


def type_uri(code: str) -> str:
    """Return the URI of a problem type."""
    return f"urn:payment-gateway:problem:{code}"


def document(error: GatewayError, id: str) -> Problem:
    """Return the problem document of `error`; `id` is the request id."""
    problem = Problem(
        type=type_uri(error.code),
        title=error.title(),
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=id,
    )
    if error.status == 422:
        problem["errors"] = error.errors
    return problem


def as_gateway_error(exc: Exception) -> GatewayError:
    """Return the error that a client sees for `exc`: an internal error without details if it is unexpected."""
    if isinstance(exc, GatewayError):
        return exc
    if isinstance(exc, HTTPException):
        kind = _OF_STATUS.get(exc.code or 500)
        headers = {name: value for name, value in exc.get_headers() if name in {"Allow", "Retry-After"}}
        if kind is not None:
            return kind(headers=headers)
        if (exc.code or 500) < 500:
            return PermanentError("This server does not accept the request.", headers=headers)
    if isinstance(exc, UNAVAILABLE):
        return DatabaseUnavailable("The database is unavailable. Repeat the request shortly.")
    return GatewayError("An internal error occurred. Include the request id when you report it.")


def respond(exc: Exception) -> Response:
    """Return the response for an error: the handler of every expected error."""
    error = as_gateway_error(exc)
    _log(exc, error)
    if isinstance(error, OAuthError):
        response = Response(json.dumps(error.as_body()), error.status, mimetype="application/json")
    else:
        response = Response(json.dumps(document(error, request_id(request))), error.status, mimetype=MEDIA_TYPE)
    response.headers.update(error.headers)
    if error.status == 401:
        challenge = INVALID_TOKEN_CHALLENGE if isinstance(error, InvalidToken) else BEARER_CHALLENGE
        response.headers.setdefault("WWW-Authenticate", challenge)
    if error.status == 503:
        response.headers.setdefault("Retry-After", RETRY_AFTER_SECONDS)
    response.headers["Cache-Control"] = "no-store"
    return response


def _log(exc: Exception, error: GatewayError) -> None:
    if isinstance(error, DatabaseUnavailable) and exc is not error:
        logger.warning("Database unavailable: {}", reason_of(exc))
    elif error.status == 500 and exc is error:  # Flask logs unexpected exceptions itself
        logger.opt(exception=exc).error("Internal error")


def _respond_to_violation(exc: IntegrityError) -> Response:
    """Return the response for a row that could not be stored because the caller's merchant was deleted.

    Tokens are trusted without a query, so only the foreign key shows that. Any other violation is unexpected.
    """
    violation = exc.orig
    if isinstance(violation, ForeignKeyViolation) and str(violation.diag.constraint_name).endswith("_merchant_id"):
        return respond(InvalidToken("The merchant of this access token does not exist any more."))
    raise exc


def install(app: Flask, jwt: JWTManager) -> None:
    """Register the error handlers of `app` and of its token library.

    There is none for `Exception`: Flask handles an unexpected exception itself, logs it and signals it
    (`got_request_exception`, which error trackers use), and then calls the handler of `HTTPException` with status 500.
    """
    for kind in (GatewayError, HTTPException, *UNAVAILABLE):
        app.register_error_handler(kind, respond)
    app.register_error_handler(IntegrityError, _respond_to_violation)
    jwt.unauthorized_loader(lambda _reason: respond(AuthenticationRequired(MISSING_TOKEN)))
    jwt.invalid_token_loader(lambda _reason: respond(InvalidToken()))
    for loader in (
        jwt.expired_token_loader,
        jwt.revoked_token_loader,
        jwt.token_verification_failed_loader,
        jwt.user_lookup_error_loader,
    ):
        loader(lambda _header, _claims: respond(InvalidToken()))
