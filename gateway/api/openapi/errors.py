"""The errors of each call, as /openapi.json tells about them: what the machinery raises, and what the call declares."""

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

_CHALLENGE, _PATIENCE = ["WWW-Authenticate"], ["Retry-After"]
_EXPLAINING = {401: _CHALLENGE, 403: _CHALLENGE, 409: _PATIENCE, 429: _PATIENCE, 503: _PATIENCE}
"""The headers that come with an error of each status, besides those of every answer."""


RESPONSES = "#/components/responses/"


class FieldError(ResponseModel):
    """What is wrong with one field."""

    pointer: Annotated[str, Field(description="The field: a JSON pointer into the body, or `/` and a parameter's name")]
    code: Annotated[str, Field(description="Stable; docs/errors.md lists them")]
    detail: Annotated[str, Field(description="The same for people")]


class Problem(ResponseModel):
    """An error (RFC 9457)."""

    type: Annotated[str, Field(description="A URI that names this kind of error")]
    title: Annotated[str, Field(description="The kind of error in a few words")]
    status: Annotated[int, Field(description="The HTTP status")]
    detail: Annotated[str, Field(description="This very occurrence, for people")]
    code: Annotated[str, Field(description="Stable, for programs; docs/errors.md says what to do about each")]
    request_id: Annotated[str, Field(description="The `X-Request-Id` of this answer: quote it when you ask about it")]


class ValidationProblem(Problem):
    """A request that is well-formed but not valid."""

    errors: Annotated[list[FieldError], Field(description="What to correct, place by place")]


class OAuthProblem(ResponseModel):
    """An error of the token endpoint (RFC 6749, section 5.2)."""

    error: Annotated[str, Field(description="Stable, for programs")]
    error_description: Annotated[str, Field(description="For people")]


def errors_of(endpoint: Endpoint) -> list[type[GatewayError]]:
    """Every error that `endpoint` answers with, each once."""
    return list(dict.fromkeys(_errors(endpoint)))


def _errors(endpoint: Endpoint) -> Iterator[type[GatewayError]]:
    if not endpoint.public:
        yield from (AuthenticationRequired, InvalidToken)
    if endpoint.signs_in or not endpoint.public:
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
    """The responses of `endpoint` that are errors, by status: references to the document's own."""
    return {str(status): {"$ref": RESPONSES + _name(status, errors)} for status, errors in _by_status(endpoint)}


def shared_responses(endpoints: Iterable[Endpoint], schema_prefix: str) -> dict[str, Any]:
    """Every response that is an error, once, however many calls have it."""
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
    headers = header_references(["X-Request-Id", *_EXPLAINING.get(status, [])])
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
    """The headers of a response, by reference to the document's own."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
