"""The table of api.md, Idempotency, row by row for every call that takes an Idempotency-Key."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import pytest

from gateway.api.http.routes import Endpoint
from tests.api.conftest import Answer, Caller, expect_problem
from tests.api.routes import endpoints, name_of, path_of, route_of
from tests.helpers import lifecycles
from tests.helpers.factories import accept_payment, count, request_under_way

POSTS = 200
THREADS = 20  # as many as the pool has connections


@dataclass(frozen=True)
class Case:
    """`target` makes what the path names; `effect` is the table and condition of what the call makes, once.

    `refused` is a body that the call refuses, or None when it is refused by a target that `unfit` makes.
    """

    target: Callable[[UUID], UUID] | None
    effect: tuple[str, str]
    refused: bytes | None
    unfit: Callable[[UUID], UUID] | None = None


CASES = {
    "create_transaction": Case(None, ("transactions", "true"), b'{"amount": 0, "currency": "USD"}'),
    "cancel_transaction": Case(
        accept_payment, ("transactions", "status = 'canceled'"), None, unfit=lifecycles.completed
    ),
    "create_refund": Case(lifecycles.completed, ("refunds", "true"), b'{"amount": 999999}'),
}
IDEMPOTENT = [endpoint for endpoint in endpoints() if endpoint.idempotent]
every_call = pytest.mark.parametrize("endpoint", IDEMPOTENT, ids=name_of)


def case_of(endpoint: Endpoint) -> Case:
    assert endpoint.name in CASES, f"{endpoint.name} is new: add it to CASES in tests/api/http/test_idempotent_calls.py"
    return CASES[endpoint.name]


def path_for(caller: Caller, endpoint: Endpoint) -> str:
    """The path of the call, with a new target of the caller's in it."""
    target = case_of(endpoint).target
    return path_of(endpoint, str(target(caller.merchant_id)) if target else "")


def body_of(endpoint: Endpoint) -> bytes | None:
    body = route_of(endpoint).body
    return None if body is None else json.dumps(body).encode()


def send(caller: Caller, path: str, body: bytes | None, key: str = "key-1") -> Answer:
    return caller.post(path, body, headers={"Idempotency-Key": key})


@every_call
def test_a_repeat_gets_the_first_answer_byte_for_byte(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)

    first, repeat = (send(merchant, path, body) for _ in range(2))

    assert first.status_code in endpoint.responses, first.text
    assert (repeat.status_code, repeat.data, repeat.content_type) == (first.status_code, first.data, first.content_type)
    assert repeat.headers.get("Location") == first.headers.get("Location")
    assert "Idempotency-Replayed" not in first.headers
    assert repeat.headers["Idempotency-Replayed"] == "true"
    assert count(*case_of(endpoint).effect) == 1


@every_call
def test_a_key_that_comes_with_another_body_or_path_is_refused(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)
    assert send(merchant, path, body).status_code in endpoint.responses

    expect_problem(send(merchant, path, (body or b"{}") + b" "), 422, "idempotency_key_reused")
    for other in IDEMPOTENT:
        if (elsewhere := path_for(merchant, other)) != path:
            expect_problem(send(merchant, elsewhere, body_of(other)), 422, "idempotency_key_reused")


@every_call
def test_two_hundred_concurrent_posts_with_one_key_do_it_once(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(lambda _: send(merchant, path, body), range(POSTS)))

    assert {answer.status_code for answer in answers} <= set(endpoint.responses), answers[-1].text
    assert len({answer.data for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert count(*case_of(endpoint).effect) == 1


@every_call
def test_a_key_whose_first_request_is_still_running_is_in_progress(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)
    before = count("idempotency_records")
    with request_under_way(merchant.merchant_id, "key-1"):
        answer = send(merchant, path, body)

    expect_problem(answer, 409, "idempotency_in_progress")
    assert int(answer.headers["Retry-After"]) >= 1
    assert (count(*case_of(endpoint).effect), count("idempotency_records")) == (0, before)
    assert send(merchant, path, body).status_code in endpoint.responses


@every_call
def test_nothing_is_kept_of_a_request_that_was_refused(merchant: Caller, endpoint: Endpoint) -> None:
    case, path, body = case_of(endpoint), path_for(merchant, endpoint), body_of(endpoint)
    unfit = path_of(endpoint, str(case.unfit(merchant.merchant_id))) if case.unfit else path

    assert send(merchant, unfit, case.refused).status_code in {409, 422}
    retry = send(merchant, path, body)

    assert retry.status_code in endpoint.responses, retry.text
    assert "Idempotency-Replayed" not in retry.headers


@every_call
def test_the_keys_of_two_merchants_do_not_meet(merchant: Caller, other_merchant: Caller, endpoint: Endpoint) -> None:
    answers = [send(caller, path_for(caller, endpoint), body_of(endpoint)) for caller in (merchant, other_merchant)]

    assert {answer.status_code for answer in answers} <= set(endpoint.responses)
    assert "Idempotency-Replayed" not in answers[1].headers


@every_call
def test_a_key_that_is_none_is_refused_before_anything_happens(merchant: Caller, endpoint: Endpoint) -> None:
    path, body = path_for(merchant, endpoint), body_of(endpoint)

    for key in ("", "k" * 256, "schlüssel", "tab\tin"):
        expect_problem(send(merchant, path, body, key), 400, "invalid_idempotency_key")
    expect_problem(send(merchant, path, body, "pay-4242424242424242"), 422, "card_number_rejected")
    assert count(*case_of(endpoint).effect) == 0
