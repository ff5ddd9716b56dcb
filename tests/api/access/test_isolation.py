"""Every endpoint rejects unauthorized callers, and discloses nothing about the objects of other merchants."""

import json
from typing import Any

import pytest
from flask import Flask

from gateway.api.http.routes import Endpoint
from gateway.domain.merchants.accounts import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.ids import new_id
from tests.api.access.test_tokens import STRANGER, claims_of, signed
from tests.api.conftest import Caller, Response, expect_problem
from tests.api.routes import ANY_TOKEN, ROUTES, SOME_ID, endpoints, name_of, path_of, route_of
from tests.api.world import World, world

__all__ = ["world"]

KNOWN = [endpoint for endpoint in endpoints() if endpoint.name in ROUTES]
PROTECTED = [endpoint for endpoint in KNOWN if route_of(endpoint).scope is not None]
SCOPED = [endpoint for endpoint in PROTECTED if route_of(endpoint).scope != ANY_TOKEN]
OF_MERCHANTS = [endpoint for endpoint in SCOPED if route_of(endpoint).scope in MERCHANT_SCOPES]
OF_OPERATORS = [endpoint for endpoint in SCOPED if route_of(endpoint).scope in OPERATOR_SCOPES]
LISTS = [endpoint for endpoint in OF_MERCHANTS if endpoint.query and "cursor" in endpoint.query.model_fields]
INVALID = 'Bearer error="invalid_token"'


def ask(caller: Caller, endpoint: Endpoint, id: str = SOME_ID, request_id: str | None = None) -> Response:
    """Send a request to an endpoint with its valid body."""
    options: dict[str, Any] = {"headers": {"X-Request-Id": request_id} if request_id else {}}
    body = route_of(endpoint).body
    if body is not None:
        options |= {"data": json.dumps(body).encode(), "content_type": "application/json"}
    return caller.call(endpoint.method, path_of(endpoint, id), **options)


def invalid_tokens(owner: Caller) -> dict[str, str]:
    """Return invalid tokens with the claims of `owner`, by what is wrong; test_tokens.py has more."""
    claims = claims_of(owner)
    revoked = signed(claims | {"jti": new_id().hex})
    assert Caller(owner.app, revoked).post("/auth/logout").status_code == 204
    return {
        "revoked": revoked,
        "expired": signed(claims | {"iat": 1_700_000_000, "exp": 1_700_003_600}),
        "forged": signed(claims, STRANGER),
    }


@pytest.mark.parametrize("endpoint", endpoints(), ids=name_of)
def test_every_endpoint_needs_the_scope_of_the_contract(endpoint: Endpoint) -> None:
    route = route_of(endpoint)

    assert endpoint.public == (route.scope is None)
    assert endpoint.scope == (None if route.scope == ANY_TOKEN else route.scope)
    assert endpoint.idempotent == route.idempotent
    assert bool(endpoint.ids) == (route.object is not None)


def test_the_contract_names_no_endpoint_that_does_not_exist() -> None:
    assert set(ROUTES) <= {endpoint.name for endpoint in endpoints()}


@pytest.mark.parametrize("endpoint", PROTECTED, ids=name_of)
def test_without_a_token_authentication_is_required(world: World, endpoint: Endpoint) -> None:
    response = ask(Caller(world.merchant.app), endpoint)

    expect_problem(response, 401, "authentication_required")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="payment-gateway"'


@pytest.fixture(scope="module")
def rejected(world: World) -> dict[str, dict[str, str]]:
    """Return invalid tokens of the merchant and of the operator."""
    return {"merchant": invalid_tokens(world.merchant), "operator": invalid_tokens(world.operator)}


@pytest.mark.parametrize("endpoint", PROTECTED, ids=name_of)
def test_an_invalid_token_is_rejected(app: Flask, rejected: dict[str, dict[str, str]], endpoint: Endpoint) -> None:
    for flaw, token in rejected["operator" if endpoint in OF_OPERATORS else "merchant"].items():
        response = ask(Caller(app, token), endpoint)
        assert response.status_code == 401, flaw
        expect_problem(response, 401, "invalid_token")
        assert response.headers["WWW-Authenticate"] == INVALID, flaw


@pytest.mark.parametrize("endpoint", SCOPED, ids=name_of)
def test_all_other_scopes_together_are_not_sufficient(world: World, endpoint: Endpoint) -> None:
    needed = str(route_of(endpoint).scope)
    others = " ".join(scope for scope in (*MERCHANT_SCOPES, *OPERATOR_SCOPES) if scope != needed)
    with_others = Caller(world.merchant.app, signed(claims_of(world.caller_with(needed), scope=others)))

    for caller in (with_others, world.caller_without(needed)):
        response = ask(caller, endpoint)
        expect_problem(response, 403, "insufficient_scope")
        assert response.headers["WWW-Authenticate"] == f'Bearer error="insufficient_scope", scope="{needed}"'


@pytest.mark.parametrize("endpoint", OF_MERCHANTS, ids=name_of)
def test_a_token_with_the_scope_but_without_a_merchant_is_rejected(world: World, endpoint: Endpoint) -> None:
    """No operator gets such a token; this is the second line of defense."""
    stray = Caller(world.merchant.app, signed(claims_of(world.operator, scope=route_of(endpoint).scope)))

    response = ask(stray, endpoint)

    assert response.status_code == 403, response.text
    expect_problem(response, 403, "insufficient_scope")


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in OF_MERCHANTS if endpoint.ids], ids=name_of)
def test_an_object_of_another_merchant_has_the_response_of_an_unknown_one(world: World, endpoint: Endpoint) -> None:
    before = everything_of(world)

    foreign, nothing, malformed = (
        ask(world.other, endpoint, id, "same-for-all")
        for id in (world.ids[str(route_of(endpoint).object)], SOME_ID, "4242")
    )

    expect_problem(foreign, 404, "not_found")
    assert foreign.data == nothing.data == malformed.data
    assert list(foreign.headers) == list(nothing.headers) == list(malformed.headers)
    assert everything_of(world) == before


def everything_of(world: World) -> dict[str, bytes]:
    """Return all that the merchant can read of its own objects."""
    readable = [endpoint for endpoint in OF_MERCHANTS if endpoint.method == "GET"]
    responses = {
        endpoint.name: ask(world.merchant, endpoint, world.ids.get(str(route_of(endpoint).object), SOME_ID))
        for endpoint in readable
    }
    assert {response.status_code for response in responses.values()} == {200}, responses
    return {name: response.data for name, response in responses.items()}


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in LISTS if not endpoint.ids], ids=name_of)
def test_a_list_contains_only_objects_of_the_merchant(world: World, endpoint: Endpoint) -> None:
    own, others = (
        {item["id"] for item in ask(caller, endpoint).json["data"]} for caller in (world.merchant, world.other)
    )

    assert own, f"give the merchant of tests/api/world.py an object that {endpoint.path} lists"
    assert not own & others


def test_resending_an_event_to_the_endpoint_of_another_merchant_has_the_response_of_an_unknown_one(
    world: World,
) -> None:
    other = world.other.post("/v1/webhook-endpoints", {"url": "https://example.com/", "events": ["*"]}).json["id"]
    path = f"/v1/events/{world.ids['event']}/resend"

    foreign, nothing = (
        world.merchant.post(path, {"endpoint_id": id}, headers={"X-Request-Id": "same"}) for id in (other, SOME_ID)
    )

    expect_problem(foreign, 404, "not_found")
    assert foreign.data == nothing.data


@pytest.mark.parametrize(
    ("endpoint", "parameter"),
    [
        (endpoint, name)
        for endpoint in LISTS
        for name in endpoint.query.model_fields  # type: ignore[union-attr]  # lists have a query
        if name.endswith("_id") and name != "customer_id"
    ],
)
def test_a_filter_by_an_id_of_another_merchant_finds_nothing(world: World, endpoint: Endpoint, parameter: str) -> None:
    path = path_of(endpoint, world.ids.get(str(route_of(endpoint).object), SOME_ID))

    foreign, nothing = (
        world.other.get(f"{path}?{parameter}={id}") for id in (world.ids[parameter.removesuffix("_id")], SOME_ID)
    )

    assert foreign.json == nothing.json == {"data": [], "next_cursor": None}
