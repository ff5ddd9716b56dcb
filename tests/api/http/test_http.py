"""What holds for every request: media types, sizes, JSON, errors, request ids, headers (api.md, Conventions)."""

import re

import pytest
from loguru import logger

from gateway.app import create_app
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.factories import count

LIMIT = 64 * 1024


def padded(size: int) -> bytes:
    """A valid payment of `size` bytes."""
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
def test_what_is_not_one_unambiguous_json_text_is_malformed(merchant: Caller, body: bytes) -> None:
    expect_problem(merchant.post("/v1/transactions", body), 400, "malformed_json")
    assert count("transactions") == 0


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_another_media_type_is_not_supported(merchant: Caller, content_type: str | None) -> None:
    answer = merchant.call("POST", "/v1/transactions", data=padded(100), content_type=content_type)

    expect_problem(answer, 415, "unsupported_media_type")


def test_a_compressed_body_is_not_supported(merchant: Caller) -> None:
    answer = merchant.post("/v1/transactions", padded(100), headers={"Content-Encoding": "gzip"})

    expect_problem(answer, 415, "unsupported_media_type")


def test_json_may_name_its_character_set(merchant: Caller) -> None:
    answer = merchant.post("/v1/transactions", padded(100), content_type="application/json; charset=utf-8")

    assert answer.status_code == 201


def test_a_body_of_the_largest_size_is_taken_and_one_byte_more_is_not(merchant: Caller) -> None:
    assert merchant.post("/v1/transactions", padded(LIMIT)).status_code == 201
    expect_problem(merchant.post("/v1/transactions", padded(LIMIT + 1)), 413, "body_too_large")
    assert count("transactions") == 1


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/transactions/", "//v1/transactions", "/v1/nothing", "/admin", "/%ff"]
)
def test_an_unknown_path_is_not_found(anonymous: Caller, path: str) -> None:
    expect_problem(anonymous.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/transactions", {"GET", "HEAD", "POST"}),
        ("OPTIONS", "/v1/transactions", {"GET", "HEAD", "POST"}),
        ("PUT", "/v1/transactions/01a203ac-0af0-72d9-8fb4-1064eca29cd1", {"GET", "HEAD"}),
        ("GET", "/auth/login", {"POST"}),
        ("GET", "/oauth/token", {"POST"}),
        ("POST", "/health/live", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_answered_with_the_right_ones(
    anonymous: Caller, method: str, path: str, allowed: set[str]
) -> None:
    answer = anonymous.call(method, path)

    expect_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("offered", ["req-1", "A.b_c-9", "x" * 128])
def test_a_usable_request_id_is_echoed(anonymous: Caller, offered: str) -> None:
    assert anonymous.get("/health/live", headers={"X-Request-Id": offered}).headers["X-Request-Id"] == offered


@pytest.mark.parametrize("offered", ["", "x" * 129, "a b", "ä", "a/b", "4242424242424242"])
def test_another_request_id_is_replaced(anonymous: Caller, offered: str) -> None:
    answer = anonymous.get("/health/live", headers={"X-Request-Id": offered})

    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.headers["X-Request-Id"])


def test_each_request_has_its_own_id_and_its_log_lines_carry_it(anonymous: Caller) -> None:
    records: list[dict[str, object]] = []
    sink = logger.add(lambda message: records.append(message.record["extra"]), level="INFO")
    try:
        ids = [anonymous.get("/docs").headers["X-Request-Id"] for _ in range(2)]
    finally:
        logger.remove(sink)

    assert len(set(ids)) == 2
    assert [record["request_id"] for record in records] == ids


@pytest.mark.parametrize("path", ["/health/live", "/v1/transactions", "/nothing", "/docs"])
def test_every_answer_has_the_security_headers(anonymous: Caller, path: str) -> None:
    headers = anonymous.get(path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"


def test_what_a_token_was_needed_for_is_not_to_be_stored(merchant: Caller) -> None:
    assert merchant.get("/v1/transactions").headers["Cache-Control"] == "no-store"
    assert merchant.pay().headers["Cache-Control"] == "no-store"
    assert merchant.pay(amount=0).headers["Cache-Control"] == "no-store"


def test_an_unforeseen_error_shows_nothing_and_is_logged_with_its_request_id() -> None:
    def broken() -> str:
        raise RuntimeError("the inside")

    own = create_app()
    own.add_url_rule("/broken", "broken", broken)
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(f"{message} {message.record['extra']}"), level="ERROR")
    try:
        answer = own.test_client().get("/broken", headers={"X-Request-Id": "req-500"})
    finally:
        logger.remove(sink)

    problem = expect_problem(answer, 500, "internal_error")
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
def test_a_card_number_anywhere_in_a_body_is_refused_and_neither_stored_nor_logged(
    merchant: Caller, body: dict[str, object], pointer: str
) -> None:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(f"{message} {message.record['extra']}"), level="TRACE")
    try:
        answer = merchant.pay({"Idempotency-Key": "k"}, **body)
    finally:
        logger.remove(sink)

    expect_problem(answer, 422, "card_number_rejected")
    assert field_errors(answer) == {pointer: "card_number_rejected"}
    everything = answer.text + "".join(lines)
    assert not re.search(r"4242|4111|5555|6011|3782", everything)
    assert count("transactions") == count("idempotency_records") == 0


@pytest.mark.parametrize(
    "written",
    [r"\u0034242424242424242", r"4242\u00204242\u00204242\u00204242", r"\u0664\u0662" * 8, "\u0664\u0662" * 8],
    ids=["a digit", "the spaces", "digits of another script", "the same without escapes"],
)
def test_a_card_number_is_refused_whichever_way_json_writes_it(merchant: Caller, written: str) -> None:
    body = f'{{"amount": 1000, "currency": "USD", "reference": "{written}"}}'.encode()
    expect_problem(merchant.post("/v1/transactions", body), 422, "card_number_rejected")


def test_a_card_number_in_a_query_is_refused(merchant: Caller) -> None:
    expect_problem(merchant.get("/v1/transactions?reference=4242424242424242"), 422, "card_number_rejected")


def test_a_card_number_in_a_registration_or_a_token_request_is_refused(anonymous: Caller) -> None:
    body = {"email": "a@example.com", "password": "x" * 12, "business_name": "4242 4242 4242 4242"}
    expect_problem(anonymous.post("/auth/register", body), 422, "card_number_rejected")
    answer = anonymous.call("POST", "/oauth/token", data={"client_id": "4242424242424242"})
    expect_problem(answer, 422, "card_number_rejected")
