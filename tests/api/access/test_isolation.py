"""Every call, made by everyone who may not make it: each gets exactly the answer of the contract and learns nothing."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from flask import Flask

from gateway.api.http.routes import Endpoint
from gateway.domain.merchants.accounts import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.ids import new_id
from gateway.security.signing_keys import key_ring
from tests.api.access.test_tokens import STRANGER, claims_of, signed
from tests.api.conftest import Answer, Caller, expect_problem
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


def ask(caller: Caller, endpoint: Endpoint, id: str = SOME_ID, request_id: str | None = None) -> Answer:
    """Make a call with its valid body."""
    options: dict[str, Any] = {"headers": {"X-Request-Id": request_id} if request_id else {}}
    body = route_of(endpoint).body
    if body is not None:
        options |= {"data": json.dumps(body).encode(), "content_type": "application/json"}
    return caller.call(endpoint.method, path_of(endpoint, id), **options)


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def forged_with(algorithm: str, claims: dict[str, Any], secret: bytes | None) -> str:
    """A token that names an algorithm of its own, unsigned or signed with `secret`."""
    head = {"alg": algorithm, "typ": "JWT", "kid": key_ring().signing().key_id}
    content = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{content}.{encoded(hmac.digest(secret, content.encode(), hashlib.sha256)) if secret else ''}"


def public_key() -> bytes:
    public = key_ring().signing().public
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def untrusted(owner: Caller) -> dict[str, str]:
    """Tokens with the claims of `owner` that nobody must trust, by what is wrong with them."""
    claims = claims_of(owner)
    revoked = signed(claims | {"jti": new_id().hex})
    assert Caller(owner.app, revoked).post("/auth/logout").status_code == 204
    return {
        "revoked": revoked,
        "expired": signed(claims | {"iat": 1_700_000_000, "exp": 1_700_003_600}),
        "alg none": forged_with("none", claims, None),
        "HS256 with the public key": forged_with("HS256", claims, public_key()),
        "another key": signed(claims, STRANGER),
        "unknown kid": signed(claims, kid="unknown"),
        "wrong audience": signed(claims | {"aud": "another-api"}),
        "wrong issuer": signed(claims | {"iss": "another-issuer"}),
        "no token": "x.y.z",
    }


@pytest.mark.parametrize("endpoint", endpoints(), ids=name_of)
def test_every_call_is_in_the_table_and_needs_the_scope_that_it_says(endpoint: Endpoint) -> None:
    route = route_of(endpoint)

    assert endpoint.public == (route.scope is None)
    assert endpoint.scope == (None if route.scope == ANY_TOKEN else route.scope)
    assert endpoint.idempotent == route.idempotent
    assert bool(endpoint.ids) == (route.object is not None)


def test_the_table_names_no_call_that_is_gone() -> None:
    assert set(ROUTES) <= {endpoint.name for endpoint in endpoints()}


@pytest.mark.parametrize("endpoint", PROTECTED, ids=name_of)
def test_without_a_token_authentication_is_required(world: World, endpoint: Endpoint) -> None:
    answer = ask(Caller(world.merchant.app), endpoint)

    expect_problem(answer, 401, "authentication_required")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="payment-gateway"'


@pytest.fixture(scope="module")
def refused(world: World) -> dict[str, list[tuple[str, str]]]:
    """The tokens that nobody must trust, of the merchant and of the operator."""
    return {
        "merchant": list(untrusted(world.merchant).items()),
        "operator": list(untrusted(world.operator).items()),
    }


@pytest.mark.parametrize("endpoint", PROTECTED, ids=name_of)
def test_no_token_that_was_forged_changed_expired_or_revoked_is_trusted(
    app: Flask, refused: dict[str, list[tuple[str, str]]], endpoint: Endpoint
) -> None:
    for flaw, token in refused["operator" if endpoint in OF_OPERATORS else "merchant"]:
        answer = ask(Caller(app, token), endpoint)
        assert answer.status_code == 401, flaw
        expect_problem(answer, 401, "invalid_token")
        assert answer.headers["WWW-Authenticate"] == INVALID, flaw


@pytest.mark.parametrize("endpoint", SCOPED, ids=name_of)
def test_every_scope_but_the_one_needed_is_not_enough(world: World, endpoint: Endpoint) -> None:
    needed = str(route_of(endpoint).scope)
    others = " ".join(scope for scope in (*MERCHANT_SCOPES, *OPERATOR_SCOPES) if scope != needed)
    powerful = Caller(world.merchant.app, signed(claims_of(world.who_may(needed), scope=others)))

    for caller in (powerful, world.who_may_not(needed)):
        answer = ask(caller, endpoint)
        expect_problem(answer, 403, "insufficient_scope")
        assert answer.headers["WWW-Authenticate"] == f'Bearer error="insufficient_scope", scope="{needed}"'


@pytest.mark.parametrize("endpoint", OF_MERCHANTS, ids=name_of)
def test_a_token_with_the_scope_but_without_a_merchant_does_nothing(world: World, endpoint: Endpoint) -> None:
    """Nobody gives operators such a token; if somebody did, they would still act for no merchant."""
    stray = Caller(world.merchant.app, signed(claims_of(world.operator, scope=route_of(endpoint).scope)))

    answer = ask(stray, endpoint)

    assert answer.status_code == 403, answer.text
    expect_problem(answer, 403, "insufficient_scope")


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in OF_MERCHANTS if endpoint.ids], ids=name_of)
def test_an_object_of_another_merchant_answers_byte_for_byte_as_one_that_never_was(
    world: World, endpoint: Endpoint
) -> None:
    before = ask_for_all(world)

    foreign, nothing, malformed = (
        ask(world.other, endpoint, id, "same-for-all")
        for id in (world.ids[str(route_of(endpoint).object)], SOME_ID, "4242")
    )

    expect_problem(foreign, 404, "not_found")
    assert foreign.data == nothing.data == malformed.data
    assert list(foreign.headers) == list(nothing.headers) == list(malformed.headers)
    assert ask_for_all(world) == before


def ask_for_all(world: World) -> dict[str, bytes]:
    """All that the merchant can read of its own objects."""
    readable = [endpoint for endpoint in OF_MERCHANTS if endpoint.method == "GET"]
    answers = {
        endpoint.name: ask(world.merchant, endpoint, world.ids.get(str(route_of(endpoint).object), SOME_ID))
        for endpoint in readable
    }
    assert {answer.status_code for answer in answers.values()} == {200}, answers
    return {name: answer.data for name, answer in answers.items()}


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in LISTS if not endpoint.ids], ids=name_of)
def test_a_list_shows_the_merchant_its_own_and_nothing_of_it_to_others(world: World, endpoint: Endpoint) -> None:
    own, others = (
        {item["id"] for item in ask(caller, endpoint).json["data"]} for caller in (world.merchant, world.other)
    )

    assert own, f"give the merchant of tests/api/world.py something that {endpoint.path} lists"
    assert not own & others


def test_sending_ones_own_event_to_an_endpoint_of_another_merchant_answers_as_to_one_that_never_was(
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
def test_filtering_by_an_id_of_another_merchant_finds_as_little_as_by_none(
    world: World, endpoint: Endpoint, parameter: str
) -> None:
    path = path_of(endpoint, world.ids.get(str(route_of(endpoint).object), SOME_ID))

    foreign, nothing = (
        world.other.get(f"{path}?{parameter}={id}") for id in (world.ids[parameter.removesuffix("_id")], SOME_ID)
    )

    assert foreign.json == nothing.json == {"data": [], "next_cursor": None}
