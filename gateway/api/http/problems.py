"""How every error is answered: one handler, `application/problem+json` (RFC 9457), nothing of the inside."""

import json
from typing import Any, TypedDict

from flask import Flask, Response
from loguru import logger
from psycopg.errors import ForeignKeyViolation
from werkzeug.exceptions import HTTPException

from gateway.api.http.application import current_request
from gateway.api.http.middleware import request_id
from gateway.db import UNAVAILABLE
from gateway.errors import (
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
"""When a caller should come again after a 503."""
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
    """The token request failed; answered in RFC 6749's own shape (section 5.2)."""

    def as_body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": self.code, "error_description": self.detail}


_OF_STATUS: dict[int, type[GatewayError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: BodyTooLarge,
    415: UnsupportedMediaType,
}


def type_uri(code: str) -> str:
    """The URI that names a problem type."""
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
    """What a caller is told about `exc`; whatever was not foreseen becomes an internal error without a detail."""
    if isinstance(exc, GatewayError):
        return exc
    if isinstance(exc, HTTPException):
        kind = _OF_STATUS.get(exc.code or 500)
        headers = {name: value for name, value in exc.get_headers() if name in {"Allow", "Retry-After"}}
        if kind is not None:
            return kind(headers=headers)
        if (exc.code or 500) < 500:
            return PermanentError("The request is not valid HTTP for this server.", headers=headers)
    if _misses_its_merchant(exc):
        return InvalidToken("The merchant of this access token does not exist any more.")
    if isinstance(exc, UNAVAILABLE):
        return DatabaseUnavailable("The database cannot be reached at the moment; send the request again shortly.")
    return GatewayError("Something went wrong on our side; quote the request id when you ask about it.")


def _misses_its_merchant(exc: Exception) -> bool:
    """Whether a row of the caller could not be written because its merchant was deleted from the database.

    Tokens are trusted without a query, and only the foreign key knows; merchants come from tokens and nowhere else.
    """
    violation = getattr(exc, "orig", None)
    return isinstance(violation, ForeignKeyViolation) and str(violation.diag.constraint_name).endswith("_merchant_id")


def _note(exc: Exception, error: GatewayError) -> None:
    if isinstance(error, DatabaseUnavailable) and exc is not error:
        logger.warning("Database unavailable: {}", reason_of(exc))
    elif error.status == 500:
        logger.opt(exception=exc).error("Internal error")


def answer(exc: Exception) -> Response:
    """The one error handler."""
    error = as_gateway_error(exc)
    _note(exc, error)
    if isinstance(error, OAuthError):
        response = Response(json.dumps(error.as_body()), error.status, mimetype="application/json")
    else:
        response = Response(
            json.dumps(document(error, request_id(current_request()))), error.status, mimetype=MEDIA_TYPE
        )
    response.headers.update(error.headers)
    if error.status == 401:
        challenge = INVALID_TOKEN_CHALLENGE if isinstance(error, InvalidToken) else BEARER_CHALLENGE
        response.headers.setdefault("WWW-Authenticate", challenge)
    if error.status == 503:
        response.headers.setdefault("Retry-After", RETRY_AFTER_SECONDS)
    response.headers["Cache-Control"] = "no-store"
    return response


def install(app: Flask) -> None:
    """Answer every error of `app` with a problem document."""
    app.register_error_handler(Exception, answer)
