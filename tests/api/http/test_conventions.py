"""The conventions of the API (docs/api.md), for every endpoint to which they apply.

The details that are the same everywhere are tested with one endpoint, in test_requests.py and test_lists.py.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.api.http.request_content import FORM, JSON
from gateway.api.http.routes import Endpoint
from gateway.api.openapi.errors import Problem, ValidationProblem
from tests.api.conftest import Caller, Response, expect_problem, field_errors
from tests.api.routes import ANY_TOKEN, SOME_ID, endpoints, name_of, path_of, route_of
from tests.api.world import World, world

__all__ = ["world"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
CARD = "4242 4242 4242 4242"

ALL = endpoints()
WITH_JSON = [endpoint for endpoint in ALL if endpoint.body is not None]
WITH_BODY = [endpoint for endpoint in ALL if endpoint.body or endpoint.form or endpoint.upload]
WITH_QUERY = [endpoint for endpoint in ALL if endpoint.query is not None]
WITH_ID = [endpoint for endpoint in ALL if endpoint.ids]
LISTS = [endpoint for endpoint in WITH_QUERY if "cursor" in endpoint.query.model_fields]  # type: ignore[union-attr]
WITH_MONEY = [endpoint for endpoint in WITH_JSON if "amount" in (route_of(endpoint).body or {})]
PATHS = sorted({endpoint.path for endpoint in ALL})


def authorized(world: World, endpoint: Endpoint) -> Caller:
    scope = route_of(endpoint).scope
    return world.merchant if scope in {None, ANY_TOKEN} else world.caller_with(str(scope))


def target_of(world: World, endpoint: Endpoint) -> str:
    """Return the path of an endpoint, with the id of an existing object."""
    return path_of(endpoint, world.ids.get(str(route_of(endpoint).object), SOME_ID)) + route_of(endpoint).query


def media_type_of(endpoint: Endpoint) -> str:
    """Return the media type of the body of an endpoint."""
    if endpoint.upload is not None:
        return endpoint.upload.media_type
    return FORM if endpoint.form else JSON


def send(world: World, endpoint: Endpoint, body: bytes, content_type: str | None = JSON, **headers: str) -> Response:
    """Send a request with this body, as an authorized caller."""
    caller = authorized(world, endpoint)
    path = target_of(world, endpoint)
    return caller.call(endpoint.method, path, data=body, content_type=content_type, headers=headers)


def valid(endpoint: Endpoint, changes: Mapping[str, Any]) -> bytes:
    """Return the valid body of an endpoint, with changes."""
    return json.dumps({**(route_of(endpoint).body or {}), **changes}).encode()


@pytest.mark.parametrize("endpoint", WITH_JSON, ids=name_of)
def test_an_unknown_field_is_rejected(world: World, endpoint: Endpoint) -> None:
    response = send(world, endpoint, valid(endpoint, {"amuont": 1}))

    expect_problem(response, 422, "unknown_field")
    assert field_errors(response) == {"/amuont": "unknown_field"}


@pytest.mark.parametrize("endpoint", WITH_QUERY, ids=name_of)
def test_an_unknown_parameter_is_rejected(world: World, endpoint: Endpoint) -> None:
    path = target_of(world, endpoint)
    response = authorized(world, endpoint).call(endpoint.method, f"{path}{'&' if '?' in path else '?'}limti=1")

    expect_problem(response, 422, "unknown_field")
    assert field_errors(response) == {"/limti": "unknown_field"}


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name_of)
def test_a_body_of_another_media_type_is_rejected(world: World, endpoint: Endpoint) -> None:
    for content_type in {None, "text/plain", "application/xml", FORM, JSON} - {media_type_of(endpoint)}:
        response = send(world, endpoint, b'{"a": 1}', content_type)
        expect_problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name_of)
def test_a_body_above_its_maximum_size_is_rejected(world: World, endpoint: Endpoint) -> None:
    limit = endpoint.upload.max_bytes if endpoint.upload else 64 * 1024

    response = send(world, endpoint, b" " * (limit + 1), media_type_of(endpoint))

    expect_problem(response, 413, "body_too_large")


@pytest.mark.parametrize("endpoint", WITH_JSON, ids=name_of)
def test_a_body_that_is_not_a_json_object_is_rejected(world: World, endpoint: Endpoint) -> None:
    expect_problem(send(world, endpoint, b"{"), 400, "malformed_json")
    response = send(world, endpoint, b"[]")
    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {"": "invalid_type"}


@pytest.mark.parametrize("endpoint", WITH_JSON, ids=name_of)
def test_a_card_number_in_a_body_is_rejected(world: World, endpoint: Endpoint) -> None:
    expect_problem(send(world, endpoint, valid(endpoint, {"x": [{"y": CARD}]})), 422, "card_number_rejected")


@pytest.mark.parametrize("endpoint", WITH_MONEY, ids=name_of)
@pytest.mark.parametrize(
    ("amount", "code"),
    [
        ("12.0", "invalid_type"),
        ("12.5", "invalid_type"),
        ("1e3", "invalid_type"),
        ('"12"', "invalid_type"),
        ("true", "invalid_type"),
        ("[12]", "invalid_type"),
        ("0", "out_of_range"),
        ("-1", "out_of_range"),
        ("1000000000000", "out_of_range"),
    ],
)
def test_an_amount_is_an_integer_within_its_limits(world: World, endpoint: Endpoint, amount: str, code: str) -> None:
    body = valid(endpoint, {"amount": "AMOUNT"}).replace(b'"AMOUNT"', amount.encode())

    response = send(world, endpoint, body)

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {"/amount": code}


@pytest.mark.parametrize("endpoint", WITH_ID, ids=name_of)
def test_a_malformed_id_has_the_response_of_an_unknown_one(world: World, endpoint: Endpoint) -> None:
    caller, body = authorized(world, endpoint), valid(endpoint, {}) if endpoint.body else None

    def response_to(id: str) -> Response:
        content_type, headers = JSON if endpoint.body else None, {"X-Request-Id": "same-for-all"}
        return caller.call(
            endpoint.method, path_of(endpoint, id), data=body, content_type=content_type, headers=headers
        )

    unknown = response_to(SOME_ID)
    expect_problem(unknown, 404, "not_found")
    for id in ("1", "null", SOME_ID.upper(), SOME_ID.replace("-", ""), f"{{{SOME_ID}}}", "%00", "ä", "a" * 500):
        response = response_to(id)
        assert (response.status_code, response.data) == (404, unknown.data), id


@pytest.mark.parametrize("endpoint", LISTS, ids=name_of)
def test_the_limit_of_a_page_is_1_to_100(world: World, endpoint: Endpoint) -> None:
    caller, path = authorized(world, endpoint), target_of(world, endpoint)
    for limit, code in (
        ("0", "out_of_range"),
        ("101", "out_of_range"),
        ("-1", "invalid_type"),
        ("ten", "invalid_type"),
    ):
        response = caller.get(f"{path}?limit={limit}")
        expect_problem(response, 422, "validation_failed")
        assert field_errors(response) == {"/limit": code}
    for most in (1, 100):
        page = caller.get(f"{path}?limit={most}")
        assert page.status_code == 200, page.text
        assert set(page.json) == {"data", "next_cursor"}
        assert len(page.json["data"]) <= most


@pytest.mark.parametrize("endpoint", LISTS, ids=name_of)
def test_a_cursor_of_another_list_is_rejected(world: World, endpoint: Endpoint) -> None:
    caller, path = authorized(world, endpoint), target_of(world, endpoint)
    other_list = "/v1/settlements" if endpoint.path != "/v1/settlements" else "/v1/transactions"
    foreign = world.merchant.get(f"{other_list}?limit=1").json["next_cursor"]
    assert foreign, f"{other_list} needs two objects in tests/api/world.py"

    for cursor in ("", "x", "!!", "a" * 5000, foreign):
        expect_problem(caller.get(f"{path}?cursor={cursor}"), 400, "invalid_cursor")


@pytest.mark.parametrize("path", PATHS)
def test_a_method_that_a_path_does_not_support_is_rejected(world: World, path: str) -> None:
    supported = {endpoint.method for endpoint in ALL if endpoint.path == path}
    allowed = supported | ({"HEAD"} if "GET" in supported else set())

    for method in METHODS - allowed:
        response = world.merchant.call(method, re.sub(r"<\w+>", SOME_ID, path))
        assert response.status_code == 405, method
        assert set(response.headers["Allow"].split(", ")) == allowed
        if method != "HEAD":
            expect_problem(response, 405, "method_not_allowed")


@pytest.mark.parametrize("endpoint", ALL, ids=name_of)
def test_every_response_has_a_request_id_and_security_headers(world: World, endpoint: Endpoint) -> None:
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for caller in (Caller(world.merchant.app), world.caller_without("operations:read")):
        for sent in ("req-1.A_b", "not valid", CARD):
            response = caller.call(
                endpoint.method, f"{path_of(endpoint)}?no_such=parameter", headers={"X-Request-Id": sent}
            )
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            ids[sent].add(response.headers["X-Request-Id"])

    assert ids["req-1.A_b"] == {"req-1.A_b"}
    assert all(re.fullmatch(r"[0-9a-f-]{36}", id) for id in ids["not valid"] | ids[CARD])


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in ALL if not endpoint.public], ids=name_of)
def test_no_response_to_an_authenticated_request_may_be_cached(world: World, endpoint: Endpoint) -> None:
    for caller in (world.merchant, world.operator, Caller(world.merchant.app)):
        response = caller.call(endpoint.method, f"{path_of(endpoint)}?no_such=parameter")
        assert response.headers["Cache-Control"] == "no-store"


def test_errors_match_their_documented_models(world: World) -> None:
    problem = Caller(world.merchant.app).get("/nothing")
    invalid = world.merchant.pay(amount=0)

    Problem.model_validate_json(problem.data)
    ValidationProblem.model_validate_json(invalid.data)
