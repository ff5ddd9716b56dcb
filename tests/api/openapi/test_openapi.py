"""Check /openapi.json against JSON Schema, the contract and the code."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from gateway.api.http.routes import Endpoint
from gateway.api.http.validation import NoBody, parse_json
from gateway.api.openapi.document import SCOPES, document
from gateway.api.openapi.examples import UNKNOWN
from gateway.app import create_app
from gateway.domain.merchants.accounts import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.states import EventType
from tests.api.routes import endpoints, name_of

pytestmark = pytest.mark.unit

SELF_EVIDENT = frozenset({"object", "status"})


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """Return the document."""
    return document(endpoints())


def operations(made: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every operation with its name, including webhooks."""
    for items in (*made["paths"].values(), *made["webhooks"].values()):
        for operation in items.values():
            yield operation["operationId"], operation


def contents(made: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every body of a request or a response, with the name of its operation or response."""
    for name, operation in operations(made):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for body in bodies:
            yield from ((name, content) for content in body.get("content", {}).values())
    for name, response in made["components"]["responses"].items():
        yield from ((name, content) for content in response["content"].values())


def examples_of(content: dict[str, Any]) -> list[Any]:
    own = [content["example"]] if "example" in content else []
    return own + [example["value"] for example in content.get("examples", {}).values()]


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def test_the_document_is_valid(made: dict[str, Any]) -> None:
    validate(made)


def test_the_document_is_generated_by_the_first_request_and_cached() -> None:
    own = create_app()
    assert "openapi" not in own.extensions

    first, second = (own.test_client().get("/openapi.json") for _ in range(2))

    assert first.data == second.data == own.extensions["openapi"]


def test_every_example_matches_its_schema(made: dict[str, Any]) -> None:
    shown = 0
    for name, content in contents(made):
        schema = {**content["schema"], "components": made["components"]}
        for example in examples_of(content):
            errors = [error.message for error in OAS31Validator(schema).iter_errors(example)]
            assert errors == [], (name, example)
            shown += 1

    assert shown > 100


@pytest.mark.parametrize("endpoint", [each for each in endpoints() if each.body not in {None, NoBody}], ids=name_of)
def test_the_example_of_a_request_is_valid(made: dict[str, Any], endpoint: Endpoint) -> None:
    [operation] = [operation for name, operation in operations(made) if name == endpoint.name]
    example = operation["requestBody"]["content"]["application/json"]["example"]

    assert endpoint.body is not None
    parse_json(endpoint.body, json.dumps(example).encode())


def test_every_json_body_has_an_example_without_placeholders(made: dict[str, Any]) -> None:
    for name, content in contents(made):
        assert (
            examples_of(content) or content["schema"] in ({}, {"type": "string"}) or "contentMediaType" in str(content)
        )
        silent = UNKNOWN in texts(examples_of(content))
        assert not silent, f"{name}: give each text an example, in its field or in gateway/api/openapi/glossary.py"


def test_every_field_has_a_description(made: dict[str, Any]) -> None:
    silent = [
        f"{model}.{name}"
        for model, schema in made["components"]["schemas"].items()
        for name, field in schema.get("properties", {}).items()
        if name not in SELF_EVIDENT
        and not any(part.keys() & {"description", "const", "$ref", "enum"} for part in (field, *field.get("anyOf", [])))
    ]

    assert silent == [], "describe them, in their fields or in gateway/api/openapi/glossary.py"


def test_every_parameter_has_a_description(made: dict[str, Any]) -> None:
    silent = [
        f"{name}: {parameter['name']}"
        for name, operation in operations(made)
        for parameter in operation["parameters"]
        if parameter["in"] != "path" and "description" not in parameter and parameter["name"] not in SELF_EVIDENT
    ]

    assert silent == [], "describe them, in their fields or in gateway/api/openapi/glossary.py"


def test_every_scope_is_described_and_required_by_an_operation(made: dict[str, Any]) -> None:
    flow = made["components"]["securitySchemes"]["oauth2"]["flows"]["clientCredentials"]
    ways = [way for _, operation in operations(made) for way in operation["security"]]
    asked = {scope for way in ways for scopes in way.values() for scope in scopes}

    assert flow["tokenUrl"] == "/oauth/token"
    assert set(flow["scopes"]) == set(SCOPES) == {*MERCHANT_SCOPES, *OPERATOR_SCOPES} == asked
    assert all(flow["scopes"].values())


def test_every_type_of_event_is_a_webhook_with_headers_and_a_body(made: dict[str, Any]) -> None:
    assert set(made["webhooks"]) == {str(kind) for kind in EventType}
    for kind, items in made["webhooks"].items():
        headers = {parameter["name"] for parameter in items["post"]["parameters"] if parameter["required"]}
        assert headers == {"webhook-id", "webhook-timestamp", "webhook-signature"}
        example = items["post"]["requestBody"]["content"]["application/json"]["example"]
        assert (example["type"], example["data"]["object"]) == (kind, kind.partition(".")[0])
        assert len(json.dumps(example)) < 20_000


@pytest.mark.parametrize("endpoint", [each for each in endpoints() if each.documented], ids=name_of)
def test_every_operation_lists_its_errors_and_its_security(made: dict[str, Any], endpoint: Endpoint) -> None:
    [operation] = [operation for name, operation in operations(made) if name == endpoint.name]

    assert operation["summary"]
    assert bool(operation["security"]) == (not endpoint.public)
    errors = {"500", "503"} if endpoint.public else {"401", "429", "500", "503"}
    assert errors <= set(operation["responses"])
    if endpoint.scope:
        assert "403" in operation["responses"]
        assert {"oauth2": [endpoint.scope]} in operation["security"]


def test_every_route_is_documented(app: Flask, made: dict[str, Any]) -> None:
    documented = {(method.upper(), path) for path, operations in made["paths"].items() for method in operations}
    served = {
        (method, re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method != "HEAD" and not rule.rule.startswith("/docs/")
    }

    assert documented == served


def test_the_document_has_no_keyword_that_json_schema_does_not_know(made: dict[str, Any]) -> None:
    text = json.dumps(made)

    assert '"ge":' not in text
    assert '"$defs"' not in text


def test_every_response_has_a_request_id(made: dict[str, Any]) -> None:
    inline = [
        response for items in made["paths"].values() for op in items.values() for response in op["responses"].values()
    ]
    for response in (*made["components"]["responses"].values(), *(r for r in inline if "$ref" not in r)):
        assert "X-Request-Id" in response["headers"]


def test_every_operation_has_a_unique_name(made: dict[str, Any]) -> None:
    names = [name for name, _ in operations(made)]

    assert len(names) == len(set(names))


def test_the_served_document_is_the_generated_one(app: Flask, made: dict[str, Any]) -> None:
    assert app.test_client().get("/openapi.json").json == made
