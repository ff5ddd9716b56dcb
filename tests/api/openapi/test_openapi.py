"""What /openapi.json says, held against JSON Schema, the contract and the code (api.md, Service)."""

import json
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
    """The document."""
    return document(endpoints())


def operations(made: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every operation, those of webhooks too, with its name."""
    for items in (*made["paths"].values(), *made["webhooks"].values()):
        for operation in items.values():
            yield operation["operationId"], operation


def contents(made: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body of a request or an answer, with where it is."""
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


def test_the_document_is_made_when_somebody_asks_for_it_and_kept() -> None:
    own = create_app()
    assert "openapi" not in own.extensions

    first, second = (own.test_client().get("/openapi.json") for _ in range(2))

    assert first.data == second.data == own.extensions["openapi"]


def test_every_example_is_what_its_schema_says(made: dict[str, Any]) -> None:
    shown = 0
    for name, content in contents(made):
        schema = {**content["schema"], "components": made["components"]}
        for example in examples_of(content):
            errors = [error.message for error in OAS31Validator(schema).iter_errors(example)]
            assert errors == [], (name, example)
            shown += 1

    assert shown > 100


@pytest.mark.parametrize("endpoint", [each for each in endpoints() if each.body not in {None, NoBody}], ids=name_of)
def test_the_example_of_a_request_is_one_that_the_call_takes(made: dict[str, Any], endpoint: Endpoint) -> None:
    [operation] = [operation for name, operation in operations(made) if name == endpoint.name]
    example = operation["requestBody"]["content"]["application/json"]["example"]

    assert endpoint.body is not None
    parse_json(endpoint.body, json.dumps(example).encode())


def test_every_body_of_json_has_an_example_and_no_text_in_one_says_nothing(made: dict[str, Any]) -> None:
    for name, content in contents(made):
        assert (
            examples_of(content) or content["schema"] in ({}, {"type": "string"}) or "contentMediaType" in str(content)
        )
        silent = UNKNOWN in texts(examples_of(content))
        assert not silent, f"{name}: give each text an example, in its field or in gateway/api/openapi/glossary.py"


def test_every_field_says_what_it_means(made: dict[str, Any]) -> None:
    silent = [
        f"{model}.{name}"
        for model, schema in made["components"]["schemas"].items()
        for name, field in schema.get("properties", {}).items()
        if name not in SELF_EVIDENT
        and not any(part.keys() & {"description", "const", "$ref", "enum"} for part in (field, *field.get("anyOf", [])))
    ]

    assert silent == [], "describe them, in their fields or in gateway/api/openapi/glossary.py"


def test_every_parameter_says_what_it_means(made: dict[str, Any]) -> None:
    silent = [
        f"{name}: {parameter['name']}"
        for name, operation in operations(made)
        for parameter in operation["parameters"]
        if parameter["in"] != "path" and "description" not in parameter and parameter["name"] not in SELF_EVIDENT
    ]

    assert silent == [], "describe them, in their fields or in gateway/api/openapi/glossary.py"


def test_every_scope_is_described_and_asked_for_somewhere(made: dict[str, Any]) -> None:
    flow = made["components"]["securitySchemes"]["oauth2"]["flows"]["clientCredentials"]
    ways = [way for _, operation in operations(made) for way in operation["security"]]
    asked = {scope for way in ways for scopes in way.values() for scope in scopes}

    assert flow["tokenUrl"] == "/oauth/token"
    assert set(flow["scopes"]) == set(SCOPES) == {*MERCHANT_SCOPES, *OPERATOR_SCOPES} == asked
    assert all(flow["scopes"].values())


def test_every_type_of_event_is_a_webhook_with_its_headers_and_body(made: dict[str, Any]) -> None:
    assert set(made["webhooks"]) == {str(kind) for kind in EventType}
    for kind, items in made["webhooks"].items():
        headers = {parameter["name"] for parameter in items["post"]["parameters"] if parameter["required"]}
        assert headers == {"webhook-id", "webhook-timestamp", "webhook-signature"}
        example = items["post"]["requestBody"]["content"]["application/json"]["example"]
        assert (example["type"], example["data"]["object"]) == (kind, kind.partition(".")[0])
        assert len(json.dumps(example)) < 20_000


def test_every_call_that_needs_a_token_tells_about_limits_and_refusals(made: dict[str, Any]) -> None:
    for name, operation in operations(made):
        if operation["security"]:
            assert {"401", "429", "500", "503"} <= set(operation["responses"]), name


def test_every_answer_is_known_by_its_request_id(made: dict[str, Any]) -> None:
    inline = [
        response for items in made["paths"].values() for op in items.values() for response in op["responses"].values()
    ]
    for response in (*made["components"]["responses"].values(), *(r for r in inline if "$ref" not in r)):
        assert "X-Request-Id" in response["headers"]


def test_every_operation_has_a_name_of_its_own(made: dict[str, Any]) -> None:
    names = [name for name, _ in operations(made)]

    assert len(names) == len(set(names))


def test_the_document_is_served_as_it_is_made(app: Flask, made: dict[str, Any]) -> None:
    assert app.test_client().get("/openapi.json").json == made
