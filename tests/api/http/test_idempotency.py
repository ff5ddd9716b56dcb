"""Idempotency keys (docs/api.md), for every endpoint that accepts them."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import pytest

from gateway.api.http.routes import Endpoint
from tests.api.conftest import Caller, Response, expect_problem, field_errors
from tests.api.routes import endpoints, name_of, path_of, route_of
from tests.helpers import lifecycles
from tests.helpers.factories import accept_payment, count, execute, request_in_progress

POSTS = 200
THREADS = 20  # the size of the connection pool


@dataclass(frozen=True)
class Case:
    """The valid and invalid requests of one endpoint.

    `target` creates the object that the path names. `effect` is the table and the condition of the row that the request
    creates or changes. `invalid_body` is a body that the endpoint rejects; without a body, `invalid_target` creates an
    object that it rejects.
    """

    target: Callable[[UUID], UUID] | None
    effect: tuple[str, str]
    invalid_body: bytes | None
    invalid_target: Callable[[UUID], UUID] | None = None


CASES = {
    "create_transaction": Case(None, ("transactions", "true"), b'{"amount": 0, "currency": "USD"}'),
    "cancel_transaction": Case(
        accept_payment, ("transactions", "status = 'canceled'"), None, invalid_target=lifecycles.completed
    ),
    "create_refund": Case(lifecycles.completed, ("refunds", "true"), b'{"amount": 999999}'),
}
IDEMPOTENT = [endpoint for endpoint in endpoints() if endpoint.idempotent]
every_endpoint = pytest.mark.parametrize("endpoint", IDEMPOTENT, ids=name_of)


def case_of(endpoint: Endpoint) -> Case:
    assert endpoint.name in CASES, f"{endpoint.name} is new: add it to CASES in tests/api/http/test_idempotency.py"
    return CASES[endpoint.name]


def path_for(caller: Caller, endpoint: Endpoint) -> str:
    """Return the path of the endpoint, with a new target of the caller."""
    target = case_of(endpoint).target
    return path_of(endpoint, str(target(caller.merchant_id)) if target else "")


def body_of(endpoint: Endpoint) -> bytes | None:
    body = route_of(endpoint).body
    return None if body is None else json.dumps(body).encode()


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


def send(caller: Caller, path: str, body: bytes | None, value: str = "key-1") -> Response:
    return caller.post(path, body, headers=key(value))


@every_endpoint
def test_a_repeated_request_gets_the_first_response_byte_for_byte(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)

    first = send(merchant, path, body)
    for table in ("transactions", "refunds"):  # the response is stored, not built again
        execute(f"UPDATE {table} SET updated_at = now() + interval '1 s'")  # noqa: S608  # constants
    execute("DELETE FROM outbox")
    repeat = send(merchant, path, body)

    assert first.status_code in endpoint.responses, first.text
    assert (repeat.status_code, repeat.data, repeat.content_type) == (first.status_code, first.data, first.content_type)
    assert repeat.headers.get("Location") == first.headers.get("Location")
    assert "Idempotency-Replayed" not in first.headers
    assert repeat.headers["Idempotency-Replayed"] == "true"
    assert (count(*case_of(endpoint).effect), count("outbox")) == (1, 0)


@every_endpoint
def test_a_key_with_another_body_or_path_is_rejected(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)
    assert send(merchant, path, body).status_code in endpoint.responses

    expect_problem(send(merchant, path, (body or b"{}") + b" "), 422, "idempotency_key_reused")
    for other in IDEMPOTENT:
        if (elsewhere := path_for(merchant, other)) != path:
            expect_problem(send(merchant, elsewhere, body_of(other)), 422, "idempotency_key_reused")


@every_endpoint
def test_two_hundred_concurrent_requests_with_one_key_are_executed_once(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)

    with ThreadPoolExecutor(THREADS) as threads:
        responses = list(threads.map(lambda _: send(merchant, path, body), range(POSTS)))

    assert {response.status_code for response in responses} <= set(endpoint.responses), responses[-1].text
    assert len({response.data for response in responses}) == 1
    assert sum("Idempotency-Replayed" not in response.headers for response in responses) == 1
    assert count(*case_of(endpoint).effect) == 1


@every_endpoint
def test_a_key_whose_first_request_is_not_finished_is_in_progress(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)
    before = count("idempotency_records")
    with request_in_progress(merchant.merchant_id, "key-1"):
        response = send(merchant, path, body)

    expect_problem(response, 409, "idempotency_in_progress")
    assert int(response.headers["Retry-After"]) >= 1
    assert (count(*case_of(endpoint).effect), count("idempotency_records")) == (0, before)
    assert send(merchant, path, body).status_code in endpoint.responses


@every_endpoint
def test_the_key_of_a_rejected_request_is_not_stored(merchant: Caller, endpoint: Endpoint) -> None:
    case, path, body = case_of(endpoint), path_for(merchant, endpoint), body_of(endpoint)
    invalid = path_of(endpoint, str(case.invalid_target(merchant.merchant_id))) if case.invalid_target else path

    assert send(merchant, invalid, case.invalid_body).status_code in {409, 422}
    retry = send(merchant, path, body)

    assert retry.status_code in endpoint.responses, retry.text
    assert "Idempotency-Replayed" not in retry.headers


@every_endpoint
def test_the_keys_of_two_merchants_are_independent(
    merchant: Caller, other_merchant: Caller, endpoint: Endpoint
) -> None:
    responses = [send(caller, path_for(caller, endpoint), body_of(endpoint)) for caller in (merchant, other_merchant)]

    assert {response.status_code for response in responses} <= set(endpoint.responses)
    assert "Idempotency-Replayed" not in responses[1].headers


@every_endpoint
def test_an_invalid_key_is_rejected_before_anything_happens(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)

    for value in ("", "k" * 256, "schlüssel", "tab\tin"):
        expect_problem(send(merchant, path, body, value), 400, "invalid_idempotency_key")
    rejected = send(merchant, path, body, "pay-4242424242424242")
    expect_problem(rejected, 422, "card_number_rejected")
    assert field_errors(rejected) == {"/Idempotency-Key": "card_number_rejected"}
    assert count(*case_of(endpoint).effect) == 0


@pytest.mark.parametrize(
    "value", ["k", "k" * 255, "a b", "~!@#", "ade769d4-2ae4-4bbb-9e25-bbfed702627d", "2026-01-31T12:00:00.123456Z"]
)
def test_any_printable_ascii_key_is_accepted(merchant: Caller, value: str) -> None:
    assert merchant.pay(key(value)).status_code == 201
    assert merchant.pay(key(value)).headers["Idempotency-Replayed"] == "true"


def test_without_a_key_every_request_creates_a_transaction(merchant: Caller) -> None:
    assert merchant.pay().json["id"] != merchant.pay().json["id"]


def test_a_key_in_progress_does_not_affect_the_other_payments_of_its_group_commit(merchant: Caller) -> None:
    headers = [key("stuck"), key("order-1"), key("stuck"), key("order-2"), {}, {}]
    with request_in_progress(merchant.merchant_id, "stuck"), ThreadPoolExecutor(len(headers)) as threads:
        responses = list(threads.map(merchant.pay, headers))

    assert [response.status_code for response in responses] == [409, 201, 409, 201, 201, 201]
    assert len({response.json["id"] for response in responses if response.status_code == 201}) == 4
    assert not any("Idempotency-Replayed" in response.headers for response in responses)
    assert count("transactions") == count("outbox") == 4
    assert count("idempotency_records") == 2
