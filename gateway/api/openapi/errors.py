"""Describe the errors of each endpoint, for /openapi.json: the common ones, and those that the endpoint declares."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from gateway.api.http import problems
from gateway.api.http.problems import OAuthError, type_uri
from gateway.api.http.request_content import JSON
from gateway.api.http.routes import Endpoint
from gateway.api.http.schemas import ResponseModel
from gateway.api.openapi.examples import ID
from gateway.errors import (
    AuthenticationRequired,
    BodyTooLarge,
    CardNumberRejected,
    DatabaseUnavailable,
    GatewayError,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidCursor,
    InvalidIdempotencyKey,
    InvalidToken,
    MalformedJson,
    MalformedRequest,
    NotFound,
    Overloaded,
    RateLimited,
    RequestTimeout,
    UnknownField,
    UnsupportedMediaType,
    ValidationFailed,
)

_CHALLENGE, _RETRY = ["WWW-Authenticate"], ["Retry-After"]
_HEADERS = {401: _CHALLENGE, 403: _CHALLENGE, 409: _RETRY, 429: _RETRY, 503: _RETRY}
"""The headers of an error by status, besides those of every response."""

RESPONSES = "#/components/responses/"


class FieldError(ResponseModel):
    """An error of one field or parameter."""

    pointer: Annotated[
        str, Field(description="The place: a JSON pointer into the body, or `/` and the name of a parameter or header")
    ]
    code: Annotated[str, Field(description="The kind of error, for programs; docs/errors.md lists all codes")]
    detail: Annotated[str, Field(description="The error in words, for people")]


class Problem(ResponseModel):
    """An error (RFC 9457)."""

    type: Annotated[str, Field(description="URI of the kind of error")]
    title: Annotated[str, Field(description="The kind of error in words; the same for every occurrence")]
    status: Annotated[int, Field(description="HTTP status")]
    detail: Annotated[str, Field(description="This occurrence of the error in words, for people")]
    code: Annotated[
        str,
        Field(description="The kind of error, for programs; docs/errors.md lists all codes with remedies"),
    ]
    request_id: Annotated[
        str, Field(description="The `X-Request-Id` of this response; quote it when you contact support")
    ]


class ValidationProblem(Problem):
    """The error of a request that is well-formed but not valid (RFC 9457)."""

    errors: Annotated[list[FieldError], Field(description="The errors by place; at most 100")]


class OAuthProblem(ResponseModel):
    """An error of the token endpoint (RFC 6749, section 5.2)."""

    error: Annotated[str, Field(description="The kind of error, for programs")]
    error_description: Annotated[str, Field(description="The error in words, for people")]


def errors_of(endpoint: Endpoint) -> list[type[GatewayError]]:
    """Return every error with which `endpoint` may respond."""
    return list(dict.fromkeys(_errors(endpoint)))


def _errors(endpoint: Endpoint) -> Iterator[type[GatewayError]]:
    if not endpoint.public:
        yield from (AuthenticationRequired, InvalidToken)
    if endpoint.has_credentials or not endpoint.public:
        yield RateLimited
    if endpoint.scope is not None:
        yield InsufficientScope
    if endpoint.ids:
        yield NotFound
    if endpoint.query is not None:
        yield from (ValidationFailed, UnknownField, CardNumberRejected)
        if "cursor" in endpoint.query.model_fields:
            yield InvalidCursor
    if endpoint.body is not None:
        yield from (MalformedJson, ValidationFailed, UnknownField, CardNumberRejected)
    if endpoint.body is not None or endpoint.form is not None or endpoint.upload is not None:
        yield from (BodyTooLarge, UnsupportedMediaType, RequestTimeout, RateLimited)
    if endpoint.idempotent:
        yield from (InvalidIdempotencyKey, IdempotencyInProgress, IdempotencyKeyReused, CardNumberRejected)
    yield from endpoint.errors
    yield from (DatabaseUnavailable, Overloaded, MalformedRequest)
    yield GatewayError


def error_responses(endpoint: Endpoint) -> dict[str, Any]:
    """Return the error responses of `endpoint` by status, as references to the components of the document."""
    return {str(status): {"$ref": RESPONSES + _name(status, errors)} for status, errors in _by_status(endpoint)}


def shared_responses(endpoints: Iterable[Endpoint], schema_prefix: str) -> dict[str, Any]:
    """Return the error responses of all endpoints, each of them once."""
    found = {_name(*group): group for endpoint in endpoints for group in _by_status(endpoint)}
    return {name: _response(*group, schema_prefix) for name, group in sorted(found.items())}


def _by_status(endpoint: Endpoint) -> list[tuple[int, list[type[GatewayError]]]]:
    by_status: dict[int, list[type[GatewayError]]] = defaultdict(list)
    for error in sorted(errors_of(endpoint), key=lambda error: error.code):
        by_status[error.status].append(error)
    return sorted(by_status.items())


def _name(status: int, errors: Sequence[type[GatewayError]]) -> str:
    return "-".join((str(status), *(error.code for error in errors)))


def _response(status: int, errors: Sequence[type[GatewayError]], schema_prefix: str) -> dict[str, Any]:
    content: dict[str, Any] = {}
    plain = [error for error in errors if not issubclass(error, OAuthError)]
    if plain:
        model = ValidationProblem if status == 422 else Problem
        content[problems.MEDIA_TYPE] = {
            "schema": _with_codes(schema_prefix + model.__name__, "code", plain),
            "examples": {error.code: {"value": _example(error)} for error in plain},
        }
    oauth = [error for error in errors if issubclass(error, OAuthError)]
    if oauth:
        content[JSON] = {
            "schema": _with_codes(schema_prefix + OAuthProblem.__name__, "error", oauth),
            "examples": {
                error.code: {"value": {"error": error.code, "error_description": error.title()}} for error in oauth
            },
        }
    text = "\n".join(f"- `{error.code}`: {error.title()}. {error.remedy}" for error in errors)
    headers = header_references(["X-Request-Id", *_HEADERS.get(status, [])])
    return {"description": text, "headers": headers, "content": content}


def _with_codes(reference: str, name: str, errors: Iterable[type[GatewayError]]) -> dict[str, Any]:
    codes = sorted({error.code for error in errors})
    return {"allOf": [{"$ref": reference}, {"properties": {name: {"enum": codes}}}]}


def _example(error: type[GatewayError]) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": type_uri(error.code),
        "title": error.title(),
        "status": error.status,
        "detail": error.title(),
        "code": error.code,
        "request_id": ID,
    }
    if error.status == 422:
        value["errors"] = [_field_error(error)] if error is not IdempotencyKeyReused else []
    return value


def _field_error(error: type[GatewayError]) -> dict[str, str]:
    if error is ValidationFailed:
        return {"pointer": "/amount", "code": "out_of_range", "detail": "Input should be greater than or equal to 1"}
    return {"pointer": "/field", "code": error.code, "detail": error.title()}


def header_references(names: Iterable[str]) -> dict[str, Any]:
    """Return the headers of a response, as references to the components of the document."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
