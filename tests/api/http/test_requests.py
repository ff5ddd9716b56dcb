"""The details of what is the same for every request (docs/api.md), tested with one endpoint each."""

import re

import pytest
from loguru import logger

from gateway.app import create_app
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.factories import count

LIMIT = 64 * 1024


def padded(size: int) -> bytes:
    """Return the body of a valid payment, padded to `size` bytes."""
    head, tail = b'{"amount": 1000, "currency": "USD"', b"}"
    return head + b" " * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"amount": 1,}',
        b"{'amount': 1}",
        b'{"amount": NaN, "currency": "USD"}',
        b'{"amount": Infinity, "currency": "USD"}',
        b'{"amount": 01, "currency": "USD"}',
        b'{"amount": 1, "currency": "USD"} x',
        b'{"amount": 1, "amount": 2, "currency": "USD"}',
        b'{"amount": 1, "currency": "USD", "metadata": {"a": "1", "a": "2"}}',
        b'{"amount": 1, "currency": "\xff"}',
        '{"amount": 1, "currency": "USD"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"amount": 1, "currency": "USD"}',
        b'{"amount": 1, "currency": "USD", "description": "a\nb"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"[" * 500 + b"]" * 500,
        b'{"amount": 1' + b"0" * 10_000 + b', "currency": "USD"}',
        b"\x00",
    ],
)
def test_a_body_that_is_not_a_single_unambiguous_json_text_is_malformed(merchant: Caller, body: bytes) -> None:
    expect_problem(merchant.post("/v1/transactions", body), 400, "malformed_json")
    assert count("transactions") == 0


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"7", b"null"])
def test_a_body_that_is_not_an_object_is_rejected(merchant: Caller, body: bytes) -> None:
    response = merchant.post("/v1/transactions", body)

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {"": "invalid_type"}


def test_a_compressed_body_or_a_similar_media_type_is_rejected(merchant: Caller) -> None:
    for options in ({"headers": {"Content-Encoding": "gzip"}}, {"content_type": "application/jsonx"}):
        response = merchant.post("/v1/transactions", padded(100), **options)
        expect_problem(response, 415, "unsupported_media_type")


def test_the_media_type_may_have_a_charset(merchant: Caller) -> None:
    response = merchant.post("/v1/transactions", padded(100), content_type="application/json; charset=utf-8")

    assert response.status_code == 201


def test_a_body_of_the_maximum_size_is_accepted_and_one_byte_more_is_rejected(merchant: Caller) -> None:
    assert merchant.post("/v1/transactions", padded(LIMIT)).status_code == 201
    expect_problem(merchant.post("/v1/transactions", padded(LIMIT + 1)), 413, "body_too_large")
    assert count("transactions") == 1


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/transactions/", "//v1/transactions", "/v1/nothing", "/admin", "/%ff"]
)
def test_an_unknown_path_is_not_found(anonymous: Caller, path: str) -> None:
    response = anonymous.get(path)

    expect_problem(response, 404, "not_found")
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("sent", ["req-1", "A.b_c-9", "x" * 128])
def test_a_valid_request_id_is_returned(anonymous: Caller, sent: str) -> None:
    assert anonymous.get("/health/live", headers={"X-Request-Id": sent}).headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "ä", "a/b", "4242424242424242"])
def test_an_invalid_request_id_is_replaced(anonymous: Caller, sent: str) -> None:
    response = anonymous.get("/health/live", headers={"X-Request-Id": sent})

    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", response.headers["X-Request-Id"])


def test_each_request_has_its_own_id_in_its_log_lines(anonymous: Caller) -> None:
    records: list[dict[str, object]] = []
    sink = logger.add(lambda message: records.append(message.record["extra"]), level="INFO")
    try:
        ids = [anonymous.get("/docs").headers["X-Request-Id"] for _ in range(2)]
    finally:
        logger.remove(sink)

    assert len(set(ids)) == 2
    assert [record["request_id"] for record in records] == ids


def test_responses_to_authenticated_requests_must_not_be_cached(merchant: Caller) -> None:
    assert merchant.get("/v1/transactions").headers["Cache-Control"] == "no-store"
    assert merchant.pay().headers["Cache-Control"] == "no-store"
    assert merchant.pay(amount=0).headers["Cache-Control"] == "no-store"


def test_an_internal_error_is_logged_with_its_request_id_and_discloses_nothing() -> None:
    def broken() -> str:
        raise RuntimeError("the inside")

    own = create_app()
    own.add_url_rule("/broken", "broken", broken)
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(f"{message} {message.record['extra']}"), level="ERROR")
    try:
        response = own.test_client().get("/broken", headers={"X-Request-Id": "req-500"})
    finally:
        logger.remove(sink)

    problem = expect_problem(response, 500, "internal_error")
    assert "inside" not in str(problem)
    assert len(lines) == 1
    assert "req-500" in lines[0]
    assert "the inside" in lines[0]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"reference": "4242424242424242"}, "/reference"),
        ({"description": "card 4242 4242 4242 4242 please"}, "/description"),
        ({"customer_id": "3782-822463-10005"}, "/customer_id"),
        ({"metadata": {"pan": "5555.5555.5555.4444"}}, "/metadata/pan"),
        ({"metadata": {"4111111111111111": "x"}}, "/metadata"),
        ({"payment_method": "6011111111111117"}, "/payment_method"),
        ({"unknown": [{"deep": ["4242424242424242"]}]}, "/unknown/0/deep/0"),
        ({"4242424242424242": 1}, ""),
    ],
)
def test_a_card_number_anywhere_in_a_body_is_rejected_and_neither_stored_nor_logged(
    merchant: Caller, body: dict[str, object], pointer: str
) -> None:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(f"{message} {message.record['extra']}"), level="TRACE")
    try:
        response = merchant.pay({"Idempotency-Key": "k", "X-Request-Id": "req-1"}, **body)
    finally:
        logger.remove(sink)

    expect_problem(response, 422, "card_number_rejected")
    assert field_errors(response) == {pointer: "card_number_rejected"}
    everything = response.text + "".join(lines)
    assert not re.search(r"4242|4111|5555|6011|3782", everything)
    assert count("transactions") == count("idempotency_records") == 0


@pytest.mark.parametrize(
    "written",
    [r"\u0034242424242424242", r"4242\u00204242\u00204242\u00204242", r"\u0664\u0662" * 8, "\u0664\u0662" * 8],
    ids=["a digit", "the spaces", "digits of another script", "the same without escapes"],
)
def test_an_escaped_card_number_is_rejected(merchant: Caller, written: str) -> None:
    body = f'{{"amount": 1000, "currency": "USD", "reference": "{written}"}}'.encode()
    expect_problem(merchant.post("/v1/transactions", body), 422, "card_number_rejected")


def test_a_card_number_in_a_query_string_is_rejected(merchant: Caller) -> None:
    expect_problem(merchant.get("/v1/transactions?reference=4242424242424242"), 422, "card_number_rejected")


def test_a_card_number_in_a_registration_or_a_token_request_is_rejected(anonymous: Caller) -> None:
    body = {"email": "a@example.com", "password": "x" * 12, "business_name": "4242 4242 4242 4242"}
    expect_problem(anonymous.post("/auth/register", body), 422, "card_number_rejected")
    response = anonymous.call("POST", "/oauth/token", data={"client_id": "4242424242424242"})
    expect_problem(response, 422, "card_number_rejected")
