"""Generates /openapi.json (OpenAPI 3.1) from the declarations that also validate requests."""

import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gateway import __version__
from gateway.api.access.sign_in import DEVICE_COOKIE, DEVICE_HEADER, ISSUING_PATHS, LOGIN_PATH
from gateway.api.http.request_content import FORM, JSON
from gateway.api.http.routes import IDEMPOTENCY_HEADER, Endpoint
from gateway.api.http.validation import NoBody
from gateway.api.openapi import webhooks as openapi_webhooks
from gateway.api.openapi.errors import (
    OAuthProblem,
    Problem,
    ValidationProblem,
    error_responses,
    header_references,
    shared_responses,
)
from gateway.api.openapi.examples import ID, example_of
from gateway.api.openapi.glossary import MEANINGS
from gateway.domain.merchants.accounts import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.domain.shared.idempotency import KEY_MAX_LENGTH
from gateway.security.device_tokens import DEVICE_TOKEN_DAYS

DESCRIPTION = """Accepts payments over HTTP and settles each of them exactly once.

- Amounts are integers in the currency's minor unit; ids are UUIDv7; times are RFC 3339 in UTC.
- Every error is `application/problem+json` (RFC 9457) with a stable `code`. An unknown path answers 404, a wrong
  method 405 with `Allow`, a fault of ours 500 with nothing but the request id.
- Send an `Idempotency-Key` with every POST that moves money, and repeat the request when no answer came.
- `X-Request-Id` (1 to 128 of `A-Z a-z 0-9 . _ -`) is taken from the request, or made; the answer repeats it.
- Lists are newest first. Pass `next_cursor` on as `cursor` to get the next page; after the last one it is null."""
REFERENCE = "#/components/schemas/"

SCOPES = {
    "transactions:read": "Read transactions, their timelines and refunds",
    "transactions:write": "Take payments and cancel them",
    "refunds:write": "Give money back",
    "settlements:read": "Read settlements and the balance",
    "webhooks:manage": "Manage webhook endpoints; read events and send them again",
    "clients:manage": "Manage the merchant's API clients",
    "operations:read": "Operators only: look at dead letters, reconciliations and the audit log",
    "operations:write": "Operators only: replay, discard, reconcile, resolve",
}

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The id of this request, the caller's own if it was usable",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    },
    "Location": {"description": "The path of what was made", "required": True, "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true` when this is the first answer given again",
        "schema": {"type": "string", "enum": ["true"]},
    },
    DEVICE_HEADER: {
        "description": f"Send it with the next log-in from this device, within {DEVICE_TOKEN_DAYS} days: wrong "
        "passwords from unknown devices then do not limit it. It grants no access",
        "required": True,
        "schema": {"type": "string"},
    },
    "Set-Cookie": {
        "description": f"`{DEVICE_COOKIE}`: the same device token, for browsers",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "How to authenticate, and what was wrong", "schema": {"type": "string"}},
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of `endpoints`."""
    shown = [endpoint for endpoint in endpoints if endpoint.documented]
    schemas = _schemas(shown)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for endpoint in shown:
        path = endpoint.path.replace("<", "{").replace(">", "}")
        paths[path][endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Payment gateway", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(endpoint.tag for endpoint in shown)],
        "paths": paths,
        "webhooks": openapi_webhooks.webhooks(schemas, REFERENCE),
        "components": {
            "schemas": schemas,
            "responses": shared_responses(shown, REFERENCE),
            "headers": _HEADERS,
            "securitySchemes": _security_schemes(),
        },
    }


def _security_schemes() -> dict[str, Any]:
    flow = {
        "tokenUrl": "/oauth/token",
        "scopes": {scope: SCOPES[scope] for scope in (*MERCHANT_SCOPES, *OPERATOR_SCOPES)},
    }
    return {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The `access_token` of /oauth/token, /auth/login or /auth/register",
        },
        "oauth2": {
            "type": "oauth2",
            "description": "For programs: an API client's id and secret",
            "flows": {"clientCredentials": flow},
        },
    }


def _schemas(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    models: dict[type[BaseModel], JsonSchemaMode] = dict.fromkeys(
        (Problem, ValidationProblem, OAuthProblem), "serialization"
    )
    models.update(dict.fromkeys(openapi_webhooks.models(), "serialization"))
    for endpoint in endpoints:
        models.update({model: "serialization" for model in endpoint.answers.values() if model is not None})
        models.update({model: "validation" for model, _ in _request_bodies(endpoint)})
    _, definitions = models_json_schema(list(models.items()), ref_template=REFERENCE + "{model}")
    schemas: dict[str, Any] = definitions["$defs"]
    for schema in schemas.values():
        for name, described in schema.get("properties", {}).items():
            schema["properties"][name] = _explained(name, described)
    return dict(sorted(schemas.items()))


def _explained(name: str, described: dict[str, Any]) -> dict[str, Any]:
    """A field or parameter with its description, from the glossary unless it has one itself."""
    options = [described, *described.get("anyOf", [])]
    known = name not in MEANINGS or any(option.keys() & {"description", "const", "$ref"} for option in options)
    return described if known else {**described, "description": MEANINGS[name]}


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    summary, _, rest = (endpoint.view.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": summary.strip().rstrip("."),
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint, schemas),
        "security": _security(endpoint),
    }
    if rest.strip():
        operation["description"] = inspect.cleandoc(rest)
    if endpoint.upload is not None:
        schema = {"type": "string", "contentMediaType": endpoint.upload.media_type}
        operation["requestBody"] = {"required": True, "content": {endpoint.upload.media_type: {"schema": schema}}}
    for model, media_type in _request_bodies(endpoint):
        operation["requestBody"] = {
            "required": endpoint.needs_body,
            "content": {media_type: _content(model, schemas)},
        }
    return operation


def _request_bodies(endpoint: Endpoint) -> Iterator[tuple[type[BaseModel], str]]:
    for model, media_type in ((endpoint.body, JSON), (endpoint.form, FORM)):
        if model is not None and model is not NoBody:
            yield model, media_type


def _content(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    return {"schema": _reference(model), "example": example_of(schemas[model.__name__], schemas)}


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
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}, "example": ID}
        for name in endpoint.ids
    ]
    if endpoint.query is not None:
        schema = endpoint.query.model_json_schema(ref_template=REFERENCE + "{model}")
        parameters.extend(_query_parameter(name, described) for name, described in _inlined(schema).items())
    if endpoint.idempotent:
        key = {"type": "string", "minLength": 1, "maxLength": KEY_MAX_LENGTH, "pattern": "^[ -~]+$"}
        text = "A UUID of your own, say. It makes the request safe to repeat: the first answer is given again"
        parameters.append({"name": IDEMPOTENCY_HEADER, "in": "header", "description": text, "schema": key})
    if endpoint.path == LOGIN_PATH:
        text = "The device token of an earlier log-in or of the registration. An invalid token is ignored"
        for name, place in ((DEVICE_HEADER, "header"), (DEVICE_COOKIE, "cookie")):
            parameters.append({"name": name, "in": place, "description": text, "schema": {"type": "string"}})
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
    described = _explained(name, described)
    schema = {key: value for key, value in described.items() if key not in {"title", "description"}}
    parameter = {"name": name, "in": "query", "schema": schema}
    if "description" in described:
        parameter["description"] = described["description"]
    return parameter


def _responses(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in endpoint.answers.items():
        names = ["X-Request-Id"]
        names += ["Location"] if _makes_something(endpoint, status, model) else []
        names += ["Idempotency-Replayed"] if endpoint.idempotent else []
        names += [DEVICE_HEADER, "Set-Cookie"] if endpoint.path in ISSUING_PATHS else []
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": header_references(names)}
        if status != 204:
            response["content"] = {endpoint.media_type: _answer(endpoint, model, schemas)}
        responses[str(status)] = response
    return responses | error_responses(endpoint)


def _makes_something(endpoint: Endpoint, status: int, model: type[BaseModel] | None) -> bool:
    return status in {201, 202} and not endpoint.public and model is not None and "id" in model.model_fields


def _answer(endpoint: Endpoint, model: type[BaseModel] | None, schemas: dict[str, Any]) -> dict[str, Any]:
    if model is not None:
        return _content(model, schemas)
    return {"schema": {} if endpoint.media_type == JSON else {"type": "string"}}
