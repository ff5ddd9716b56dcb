"""Generates /openapi.json (OpenAPI 3.1) from the declarations that also validate requests."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gateway.api import problems
from gateway.api.http import FORM, IDEMPOTENCY_HEADER, JSON, Endpoint
from gateway.api.models import AnswerModel
from gateway.api.problems import OAuthError, type_uri
from gateway.domain.idempotency import KEY_MAX_LENGTH
from gateway.domain.merchants import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.errors import (
    AuthenticationRequired,
    BodyTooLarge,
    CardNumberRejected,
    DatabaseUnavailable,
    GatewayError,
    InsufficientScope,
    InvalidCursor,
    InvalidToken,
    MalformedJson,
    NotFound,
    UnknownField,
    UnsupportedMediaType,
    ValidationFailed,
)

API_VERSION = "1.0.0"
DESCRIPTION = """Accepts payments over HTTP and settles each of them exactly once.

Amounts are integers in the currency's minor unit. Every error is `application/problem+json` (RFC 9457) with a stable
`code`. Send an `Idempotency-Key` with every POST that moves money, and repeat the request when no answer came."""
REFERENCE = "#/components/schemas/"

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The id of this request, the caller's own if it was usable",
        "schema": {"type": "string"},
    },
    "Location": {"description": "The path of what was made", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true` when this is the first answer given again",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "How to authenticate, and what was wrong", "schema": {"type": "string"}},
    "Cache-Control": {"description": "Whether the answer may be stored", "schema": {"type": "string"}},
}


class FieldError(AnswerModel):
    """What is wrong with one field."""

    pointer: str
    code: str
    detail: str


class Problem(AnswerModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class ValidationProblem(Problem):
    """A request that is well-formed but not valid."""

    errors: list[FieldError]


class OAuthProblem(AnswerModel):
    """An error of the token endpoint (RFC 6749, section 5.2)."""

    error: str
    error_description: str


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of `endpoints`."""
    shown = [endpoint for endpoint in endpoints if endpoint.documented]
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for endpoint in shown:
        paths[endpoint.path.replace("<", "{").replace(">", "}")][endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Payment gateway", "version": API_VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(endpoint.tag for endpoint in shown)],
        "paths": paths,
        "components": {
            "schemas": _schemas(shown),
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "oauth2": {
                    "type": "oauth2",
                    "flows": {
                        "clientCredentials": {
                            "tokenUrl": "/oauth/token",
                            "scopes": dict.fromkeys((*MERCHANT_SCOPES, *OPERATOR_SCOPES), ""),
                        }
                    },
                },
            },
        },
    }


def _schemas(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    models: dict[type[BaseModel], JsonSchemaMode] = dict.fromkeys(
        (Problem, ValidationProblem, OAuthProblem), "serialization"
    )
    for endpoint in endpoints:
        models.update({model: "serialization" for model in endpoint.answers.values() if model is not None})
        models.update({model: "validation" for model in (endpoint.body, endpoint.form) if model is not None})
    _, definitions = models_json_schema(list(models.items()), ref_template=REFERENCE + "{model}")
    schemas: dict[str, Any] = definitions["$defs"]
    return dict(sorted(schemas.items()))


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    summary, _, rest = (endpoint.view.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": summary.strip().rstrip("."),
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint),
        "security": _security(endpoint),
    }
    if rest.strip():
        operation["description"] = rest.strip()
    for model, media_type in ((endpoint.body, JSON), (endpoint.form, FORM)):
        if model is not None:
            operation["requestBody"] = {
                "required": endpoint.needs_body,
                "content": {media_type: {"schema": _reference(model)}},
            }
    return operation


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE + model.__name__}


def _security(endpoint: Endpoint) -> list[dict[str, list[str]]]:
    if endpoint.public:
        return []
    if endpoint.scope is None:
        return [{"bearer": []}]
    return [{"oauth2": [endpoint.scope]}, {"bearer": [endpoint.scope]}]


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in endpoint.ids
    ]
    if endpoint.query is not None:
        schema = endpoint.query.model_json_schema(ref_template=REFERENCE + "{model}")
        parameters.extend(_query_parameter(name, described) for name, described in _inlined(schema).items())
    if endpoint.idempotent:
        key = {"type": "string", "minLength": 1, "maxLength": KEY_MAX_LENGTH, "pattern": "^[ -~]+$"}
        text = "Makes the request safe to repeat: the first answer is given again"
        parameters.append({"name": IDEMPOTENCY_HEADER, "in": "header", "description": text, "schema": key})
    return parameters


def _inlined(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The properties of a query model, with what they refer to put in place: parameters have no definitions."""
    definitions = schema.get("$defs", {})

    def resolve(part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        return definitions[reference.removeprefix(REFERENCE)] if reference else part

    return {name: _without_null(resolve, described) for name, described in schema.get("properties", {}).items()}


def _without_null(resolve: Any, described: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out is never null in a URL."""
    options = [resolve(option) for option in described.get("anyOf", []) if option.get("type") != "null"]
    if not options:
        return described
    rest = {key: value for key, value in described.items() if key not in {"anyOf", "default", "title"}}
    return {**options[0], **rest}


def _query_parameter(name: str, described: dict[str, Any]) -> dict[str, Any]:
    schema = {key: value for key, value in described.items() if key not in {"title", "description"}}
    parameter = {"name": name, "in": "query", "schema": schema}
    if "description" in described:
        parameter["description"] = described["description"]
    return parameter


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in endpoint.answers.items():
        names = ["X-Request-Id"]
        names += ["Location"] if status == 201 and endpoint.idempotent else []
        names += ["Idempotency-Replayed"] if endpoint.idempotent else []
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": _header_references(names)}
        if status != 204:
            schema = (
                _reference(model) if model is not None else {} if endpoint.media_type == JSON else {"type": "string"}
            )
            response["content"] = {endpoint.media_type: {"schema": schema}}
        responses[str(status)] = response
    by_status: dict[int, list[type[GatewayError]]] = defaultdict(list)
    for error in dict.fromkeys(_errors(endpoint)):
        by_status[error.status].append(error)
    for status, errors in sorted(by_status.items()):
        responses[str(status)] = _error_response(status, errors)
    return responses


def _errors(endpoint: Endpoint) -> Iterable[type[GatewayError]]:
    """What the machinery raises for such a call, and what the call itself declares."""
    if not endpoint.public:
        yield from (AuthenticationRequired, InvalidToken)
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
    if endpoint.body is not None or endpoint.form is not None:
        yield from (BodyTooLarge, UnsupportedMediaType)
    yield from endpoint.errors
    yield DatabaseUnavailable
    yield GatewayError


def _error_response(status: int, errors: Sequence[type[GatewayError]]) -> dict[str, Any]:
    names = ["X-Request-Id"]
    names += ["WWW-Authenticate"] if status in {401, 403} else []
    names += ["Retry-After"] if status in {409, 503} else []
    content: dict[str, Any] = {}
    plain = [error for error in errors if not issubclass(error, OAuthError)]
    if plain:
        schema = _reference(ValidationProblem if status == 422 else Problem)
        content[problems.MEDIA_TYPE] = {"schema": schema, "examples": {error.code: _example(error) for error in plain}}
    oauth = [error for error in errors if issubclass(error, OAuthError)]
    if oauth:
        examples = {error.code: {"value": {"error": error.code, "error_description": error.title()}} for error in oauth}
        content[JSON] = {"schema": _reference(OAuthProblem), "examples": examples}
    text = "; ".join(f"`{error.code}`: {error.title()}" for error in errors)
    return {"description": text, "headers": _header_references(names), "content": content}


def _example(error: type[GatewayError]) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": type_uri(error.code),
        "title": error.title(),
        "status": error.status,
        "detail": error.title(),
        "code": error.code,
        "request_id": "0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10",
    }
    if error.status == 422:
        value["errors"] = [{"pointer": "/amount", "code": "out_of_range", "detail": "Input should be greater than 0"}]
    return {"value": value}


def _header_references(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
