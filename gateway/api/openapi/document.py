"""Generate /openapi.json (OpenAPI 3.1) from the declarations that also validate requests."""

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
from gateway.api.openapi.glossary import DESCRIPTIONS
from gateway.domain.merchants.accounts import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.domain.shared.idempotency import KEY_MAX_LENGTH
from gateway.security.device_tokens import DEVICE_TOKEN_DAYS

DESCRIPTION = """The API of a payment gateway. It accepts payments, and settles each of them exactly once.

- Amounts are integers in the currency's minor unit, ids are UUIDv7, and times are RFC 3339 in UTC.
- Errors are `application/problem+json` (RFC 9457) with a stable `code`. An unknown path returns 404, a method that the
  path does not support 405 with `Allow`, and an internal error 500 with the request id.
- Send an `Idempotency-Key` with every POST that creates or moves money. If you get no response, repeat the request with
  the same key: it is executed once, and the first response is returned again.
- Send an `X-Request-Id` (1 to 128 of `A-Z a-z 0-9 . _ -`) to identify a request, or the gateway generates one. Every
  response contains it.
- Lists are sorted by time, newest object first. Send `next_cursor` as `cursor` to get the next page; it is null on the
  last page. In filters, `…_from` includes the time, and `…_to` excludes it."""
REFERENCE = "#/components/schemas/"

SCOPES = {
    "transactions:read": "Read transactions, timelines and refunds",
    "transactions:write": "Create and cancel transactions",
    "refunds:write": "Create refunds",
    "settlements:read": "Read settlements and the balance",
    "webhooks:manage": "Manage webhook endpoints, read events, and send events again",
    "clients:manage": "Manage the merchant's API clients",
    "operations:read": "Operators only: read dead letters, reconciliations, statements and the audit log",
    "operations:write": "Operators only: resolve dead letters and discrepancies, reconcile, upload statements",
}

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The id of the request: the one that was sent, if it is valid, or else a new one",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    },
    "Location": {
        "description": "The path of the object that was created",
        "required": True,
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "`true` if this is the stored response to an earlier request with the same key",
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
    "Retry-After": {
        "description": "Number of seconds to wait before the request is repeated",
        "schema": {"type": "integer"},
    },
    "WWW-Authenticate": {
        "description": "The authentication scheme, and what is wrong with the credentials",
        "schema": {"type": "string"},
    },
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI document of `endpoints`."""
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
            "description": "An access token from /oauth/token, /auth/login or /auth/register",
        },
        "oauth2": {
            "type": "oauth2",
            "description": "For programs: the id and the secret of an API client",
            "flows": {"clientCredentials": flow},
        },
    }


def _schemas(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    models: dict[type[BaseModel], JsonSchemaMode] = dict.fromkeys(
        (Problem, ValidationProblem, OAuthProblem), "serialization"
    )
    models.update(dict.fromkeys(openapi_webhooks.models(), "serialization"))
    for endpoint in endpoints:
        models.update({model: "serialization" for model in endpoint.responses.values() if model is not None})
        models.update({model: "validation" for model, _ in _request_bodies(endpoint)})
    _, definitions = models_json_schema(list(models.items()), ref_template=REFERENCE + "{model}")
    schemas: dict[str, Any] = definitions["$defs"]
    for schema in schemas.values():
        for name, described in schema.get("properties", {}).items():
            schema["properties"][name] = _explained(name, described)
    return dict(sorted(schemas.items()))


def _explained(name: str, described: dict[str, Any]) -> dict[str, Any]:
    """Return a field or parameter with a description: its own, or that of the glossary."""
    options = [described, *described.get("anyOf", [])]
    known = name not in DESCRIPTIONS or any(option.keys() & {"description", "const", "$ref"} for option in options)
    return described if known else {**described, "description": DESCRIPTIONS[name]}


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
        text = "A unique value that you choose, such as a UUID. A repeated request with the same key is not executed "
        "again: it gets the response to the first one"
        parameters.append({"name": IDEMPOTENCY_HEADER, "in": "header", "description": text, "schema": key})
    if endpoint.path == LOGIN_PATH:
        text = "The device token of an earlier log-in or of the registration. An invalid one is ignored"
        for name, place in ((DEVICE_HEADER, "header"), (DEVICE_COOKIE, "cookie")):
            parameters.append({"name": name, "in": place, "description": text, "schema": {"type": "string"}})
    return parameters


def _inlined(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the properties of a query model, with references resolved: parameters have no definitions."""
    definitions = schema.get("$defs", {})

    def resolve(part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        return definitions[reference.removeprefix(REFERENCE)] if reference else part

    return {name: _without_null(resolve, described) for name, described in schema.get("properties", {}).items()}


def _without_null(resolve: Any, described: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an optional parameter, which is omitted rather than null in a URL."""
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
    for status, model in endpoint.responses.items():
        names = ["X-Request-Id"]
        names += ["Location"] if _creates_object(endpoint, status, model) else []
        names += ["Idempotency-Replayed"] if endpoint.idempotent else []
        names += [DEVICE_HEADER, "Set-Cookie"] if endpoint.path in ISSUING_PATHS else []
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": header_references(names)}
        if status != 204:
            response["content"] = {endpoint.media_type: _content_of(endpoint, model, schemas)}
        responses[str(status)] = response
    return responses | error_responses(endpoint)


def _creates_object(endpoint: Endpoint, status: int, model: type[BaseModel] | None) -> bool:
    return status in {201, 202} and not endpoint.public and model is not None and "id" in model.model_fields


def _content_of(endpoint: Endpoint, model: type[BaseModel] | None, schemas: dict[str, Any]) -> dict[str, Any]:
    if model is not None:
        return _content(model, schemas)
    return {"schema": {} if endpoint.media_type == JSON else {"type": "string"}}
