"""The conventions of api.md, tried on every call that they apply to."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.api.http.request_content import FORM, JSON
from gateway.api.http.routes import Endpoint
from gateway.api.openapi.errors import Problem, ValidationProblem
from tests.api.conftest import Answer, Caller, expect_problem, field_errors
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


def who_may(world: World, endpoint: Endpoint) -> Caller:
    scope = route_of(endpoint).scope
    return world.merchant if scope in {None, ANY_TOKEN} else world.who_may(str(scope))


def target_of(world: World, endpoint: Endpoint) -> str:
    """The path of a call, with an id of something that is there."""
    return path_of(endpoint, world.ids.get(str(route_of(endpoint).object), SOME_ID)) + route_of(endpoint).query


def media_type_of(endpoint: Endpoint) -> str:
    """What the body of a call has to be."""
    if endpoint.upload is not None:
        return endpoint.upload.media_type
    return FORM if endpoint.form else JSON


def send(world: World, endpoint: Endpoint, body: bytes, content_type: str | None = JSON, **headers: str) -> Answer:
    """Make a call with this body, as someone who may."""
    caller = who_may(world, endpoint)
    path = target_of(world, endpoint)
    return caller.call(endpoint.method, path, data=body, content_type=content_type, headers=headers)


def valid(endpoint: Endpoint, changes: Mapping[str, Any]) -> bytes:
    """The valid body of a call, with changes that spoil it."""
    return json.dumps({**(route_of(endpoint).body or {}), **changes}).encode()


@pytest.mark.parametrize("endpoint", WITH_JSON, ids=name_of)
def test_an_unknown_field_is_named(world: World, endpoint: Endpoint) -> None:
    answer = send(world, endpoint, valid(endpoint, {"amuont": 1}))

    expect_problem(answer, 422, "unknown_field")
    assert field_errors(answer) == {"/amuont": "unknown_field"}


@pytest.mark.parametrize("endpoint", WITH_QUERY, ids=name_of)
def test_an_unknown_parameter_is_named(world: World, endpoint: Endpoint) -> None:
    path = target_of(world, endpoint)
    answer = who_may(world, endpoint).call(endpoint.method, f"{path}{'&' if '?' in path else '?'}limti=1")

    expect_problem(answer, 422, "unknown_field")
    assert field_errors(answer) == {"/limti": "unknown_field"}


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name_of)
def test_a_body_of_another_media_type_is_not_supported(world: World, endpoint: Endpoint) -> None:
    for content_type in {None, "text/plain", "application/xml", FORM, JSON} - {media_type_of(endpoint)}:
        answer = send(world, endpoint, b'{"a": 1}', content_type)
        expect_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name_of)
def test_a_body_over_the_limit_is_too_large(world: World, endpoint: Endpoint) -> None:
    limit = endpoint.upload.max_bytes if endpoint.upload else 64 * 1024

    answer = send(world, endpoint, b" " * (limit + 1), media_type_of(endpoint))

    expect_problem(answer, 413, "body_too_large")


@pytest.mark.parametrize("endpoint", WITH_JSON, ids=name_of)
@pytest.mark.parametrize(
    "body", [b"{", b'{"a": 1, "a": 2}', b"\xff", b"[" * 9_000], ids=["cut", "twice", "latin", "deep"]
)
def test_what_is_not_json_is_malformed(world: World, endpoint: Endpoint, body: bytes) -> None:
    expect_problem(send(world, endpoint, body), 400, "malformed_json")


@pytest.mark.parametrize("endpoint", WITH_JSON, ids=name_of)
@pytest.mark.parametrize("body", [b"[]", b'"text"', b"12", b"null"])
def test_json_that_is_no_object_is_not_valid(world: World, endpoint: Endpoint, body: bytes) -> None:
    answer = send(world, endpoint, body)

    expect_problem(answer, 422, "validation_failed")
    assert field_errors(answer) == {"": "invalid_type"}


@pytest.mark.parametrize("endpoint", WITH_JSON, ids=name_of)
def test_a_card_number_is_refused_wherever_it_stands(world: World, endpoint: Endpoint) -> None:
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
def test_an_amount_is_an_integer_within_bounds(world: World, endpoint: Endpoint, amount: str, code: str) -> None:
    body = valid(endpoint, {"amount": "AMOUNT"}).replace(b'"AMOUNT"', amount.encode())

    answer = send(world, endpoint, body)

    expect_problem(answer, 422, "validation_failed")
    assert field_errors(answer) == {"/amount": code}


@pytest.mark.parametrize("endpoint", WITH_ID, ids=name_of)
@pytest.mark.parametrize(
    "id", ["1", "null", SOME_ID.upper(), SOME_ID.replace("-", ""), f"{{{SOME_ID}}}", "%00", "a" * 500]
)
def test_a_malformed_id_answers_as_one_that_never_was(world: World, endpoint: Endpoint, id: str) -> None:
    caller, body = who_may(world, endpoint), valid(endpoint, {})
    answers = [
        caller.call(
            endpoint.method,
            path_of(endpoint, each),
            data=body if endpoint.body else None,
            content_type=JSON if endpoint.body else None,
            headers={"X-Request-Id": "same-for-all"},
        )
        for each in (id, SOME_ID)
    ]

    expect_problem(answers[0], 404, "not_found")
    assert answers[0].data == answers[1].data


@pytest.mark.parametrize("endpoint", LISTS, ids=name_of)
def test_a_page_has_one_to_a_hundred_objects(world: World, endpoint: Endpoint) -> None:
    caller, path = who_may(world, endpoint), target_of(world, endpoint)
    for limit, code in (
        ("0", "out_of_range"),
        ("101", "out_of_range"),
        ("-1", "invalid_type"),
        ("ten", "invalid_type"),
    ):
        answer = caller.get(f"{path}?limit={limit}")
        expect_problem(answer, 422, "validation_failed")
        assert field_errors(answer) == {"/limit": code}
    for most in (1, 100):
        page = caller.get(f"{path}?limit={most}")
        assert page.status_code == 200, page.text
        assert set(page.json) == {"data", "next_cursor"}
        assert len(page.json["data"]) <= most


@pytest.mark.parametrize("endpoint", LISTS, ids=name_of)
def test_a_cursor_works_only_where_it_came_from(world: World, endpoint: Endpoint) -> None:
    caller, path = who_may(world, endpoint), target_of(world, endpoint)
    stranger = "/v1/settlements" if endpoint.path != "/v1/settlements" else "/v1/transactions"
    foreign = world.merchant.get(f"{stranger}?limit=1").json["next_cursor"]
    assert foreign, f"{stranger} needs two objects in tests/api/world.py"

    for cursor in ("", "x", "!!", "a" * 5000, foreign):
        expect_problem(caller.get(f"{path}?cursor={cursor}"), 400, "invalid_cursor")


@pytest.mark.parametrize("path", PATHS)
def test_every_other_method_is_answered_with_those_that_there_are(world: World, path: str) -> None:
    there = {endpoint.method for endpoint in ALL if endpoint.path == path}
    allowed = there | ({"HEAD"} if "GET" in there else set())

    for method in METHODS - allowed:
        answer = world.merchant.call(method, re.sub(r"<\w+>", SOME_ID, path))
        assert answer.status_code == 405, method
        assert set(answer.headers["Allow"].split(", ")) == allowed
        if method != "HEAD":
            expect_problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("endpoint", ALL, ids=name_of)
def test_every_answer_repeats_the_request_id_and_guards_the_browser(world: World, endpoint: Endpoint) -> None:
    made: defaultdict[str, set[str]] = defaultdict(set)
    for caller in (Caller(world.merchant.app), world.who_may_not("operations:read")):
        for offered in ("req-1.A_b", "not usable", CARD):
            answer = caller.call(
                endpoint.method, f"{path_of(endpoint)}?no_such=parameter", headers={"X-Request-Id": offered}
            )
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            made[offered].add(answer.headers["X-Request-Id"])

    assert made["req-1.A_b"] == {"req-1.A_b"}
    assert all(re.fullmatch(r"[0-9a-f-]{36}", id) for id in made["not usable"] | made[CARD])


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in ALL if not endpoint.public], ids=name_of)
def test_no_answer_to_a_token_may_be_stored(world: World, endpoint: Endpoint) -> None:
    for caller in (world.merchant, world.operator, Caller(world.merchant.app)):
        answer = caller.call(endpoint.method, f"{path_of(endpoint)}?no_such=parameter")
        assert answer.headers["Cache-Control"] == "no-store"


def test_every_error_of_these_tests_is_the_documented_problem(world: World) -> None:
    problem = Caller(world.merchant.app).get("/nothing")
    invalid = world.merchant.pay(amount=0)

    Problem.model_validate_json(problem.data)
    ValidationProblem.model_validate_json(invalid.data)
