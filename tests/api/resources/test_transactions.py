"""Create and retrieve transactions."""

from typing import Any

import psycopg
import pytest

from gateway.api.resources.transactions import Transaction
from gateway.money import AMOUNT_MAX
from gateway.providers.simulated import TEST_TOKENS
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.factories import count, execute

FULL = {
    "amount": 12550,
    "currency": "USD",
    "payment_method": "tok_approve",
    "reference": "order-1001",
    "description": "Two seats",
    "customer_id": "cus_77",
    "metadata": {"cart": "c-9"},
}


def test_a_new_transaction_has_the_fields_of_the_contract(merchant: Caller) -> None:
    response = merchant.post("/v1/transactions", FULL)

    assert response.status_code == 201
    made = response.json
    assert response.headers["Location"] == f"/v1/transactions/{made['id']}"
    assert "Idempotency-Replayed" not in response.headers
    Transaction.model_validate_json(response.data)
    assert list(made) == [
        "id", "object", "merchant_id", "amount", "currency", "status", "payment_method", "reference", "description",
        "customer_id", "metadata", "provider", "provider_reference", "failure", "attempts", "amount_refunded",
        "created_at", "updated_at", "completed_at",
    ]  # fmt: skip
    assert made | FULL == made
    assert made["merchant_id"] == str(merchant.merchant_id)
    assert made["status"] == "pending"
    assert (made["attempts"], made["amount_refunded"], made["failure"], made["completed_at"]) == (0, 0, None, None)


def test_a_transaction_and_its_outbox_row_are_committed_before_the_response(merchant: Caller) -> None:
    made = merchant.pay().json

    assert count("transactions", f"id = '{made['id']}'") == 1
    assert count("outbox", f"topic = 'transaction.created' AND subject_id = '{made['id']}'") == 1


def test_a_retrieved_transaction_equals_the_created_one(merchant: Caller) -> None:
    made = merchant.post("/v1/transactions", FULL)

    read = merchant.get(made.headers["Location"])

    assert read.status_code == 200
    assert read.json == made.json


def test_omitted_fields_have_their_defaults(merchant: Caller) -> None:
    made = merchant.post("/v1/transactions", {"amount": 1, "currency": "JPY"}).json

    assert made["payment_method"] == "tok_approve"
    assert made["metadata"] == {}
    assert (made["reference"], made["description"], made["customer_id"]) == (None, None, None)


def test_the_request_id_is_stored_with_the_transaction(merchant: Caller) -> None:
    response = merchant.pay({"X-Request-Id": "req-4711"})

    assert response.headers["X-Request-Id"] == "req-4711"
    assert count("transactions", "request_id = 'req-4711'") == 1


@pytest.mark.parametrize("currency", ["usd", "Usd", "USD"])
def test_a_currency_is_accepted_in_any_case_and_returned_in_upper_case(merchant: Caller, currency: str) -> None:
    assert merchant.pay(currency=currency).json["currency"] == "USD"


@pytest.mark.parametrize("currency", ["JPY", "KWD", "CHF", "EUR"])
def test_currencies_with_any_minor_unit_are_accepted(merchant: Caller, currency: str) -> None:
    assert merchant.pay(currency=currency).status_code == 201


@pytest.mark.parametrize("token", sorted(TEST_TOKENS))
def test_every_test_token_is_accepted(merchant: Caller, token: str) -> None:
    assert merchant.pay(payment_method=token).json["payment_method"] == token


@pytest.mark.parametrize("amount", [1, AMOUNT_MAX])
def test_the_minimum_and_the_maximum_amount_are_accepted(merchant: Caller, amount: int) -> None:
    assert merchant.pay(amount=amount).json["amount"] == amount


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"amount": None}, "/amount", "invalid_type"),
        ({"amount": AMOUNT_MAX + 1}, "/amount", "out_of_range"),
        ({"amount": 10**40}, "/amount", "out_of_range"),
        ({"currency": "XXX"}, "/currency", "unsupported_currency"),
        ({"currency": "XTS"}, "/currency", "unsupported_currency"),
        ({"currency": "CHE"}, "/currency", "unsupported_currency"),
        ({"currency": "XAU"}, "/currency", "unsupported_currency"),
        ({"currency": "ABC"}, "/currency", "unsupported_currency"),
        ({"currency": "US"}, "/currency", "invalid_format"),
        ({"currency": "USD "}, "/currency", "invalid_format"),
        ({"currency": "USD\n"}, "/currency", "invalid_format"),
        ({"currency": "\uff35\uff33\uff24"}, "/currency", "invalid_format"),
        ({"currency": ""}, "/currency", "invalid_format"),
        ({"currency": 840}, "/currency", "invalid_type"),
        ({"currency": None}, "/currency", "invalid_type"),
        ({"payment_method": ""}, "/payment_method", "invalid_length"),
        ({"payment_method": "t" * 256}, "/payment_method", "invalid_length"),
        ({"payment_method": None}, "/payment_method", "invalid_type"),
        ({"payment_method": 7}, "/payment_method", "invalid_type"),
        ({"reference": "r" * 256}, "/reference", "invalid_length"),
        ({"reference": 1001}, "/reference", "invalid_type"),
        ({"description": "d" * 501}, "/description", "invalid_length"),
        ({"customer_id": "c" * 65}, "/customer_id", "invalid_length"),
        ({"metadata": None}, "/metadata", "invalid_type"),
        ({"metadata": []}, "/metadata", "invalid_type"),
        ({"metadata": {f"k{n}": "" for n in range(51)}}, "/metadata", "invalid_length"),
        ({"metadata": {"": "v"}}, "/metadata/", "invalid_length"),
        ({"metadata": {"k" * 41: "v"}}, f"/metadata/{'k' * 41}", "invalid_length"),
        ({"metadata": {"k": "v" * 501}}, "/metadata/k", "invalid_length"),
        ({"metadata": {"k": 1}}, "/metadata/k", "invalid_type"),
        ({"metadata": {"k": None}}, "/metadata/k", "invalid_type"),
        ({"metadata": {"a/b~c": {}}}, "/metadata/a~1b~0c", "invalid_type"),
        ({"reference": "a\x00b"}, "/reference", "invalid_characters"),
        ({"metadata": {"k": "\x00"}}, "/metadata/k", "invalid_characters"),
        ({"metadata": {"\x00": "v"}}, "/metadata", "invalid_characters"),
        ({"description": "\ud800"}, "/description", "invalid_characters"),
    ],
)
def test_an_invalid_field_is_named_and_nothing_is_stored(
    merchant: Caller, fields: dict[str, object], pointer: str, code: str
) -> None:
    response = merchant.pay({"Idempotency-Key": "k-1"}, **fields)

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {pointer: code}
    assert count("transactions") == count("outbox") == count("idempotency_records") == 0


def test_fields_of_the_maximum_length_are_accepted(merchant: Caller) -> None:
    longest: dict[str, Any] = {
        "reference": "ä" * 255,
        "description": "🪑" * 500,
        "customer_id": "c" * 64,
        "metadata": {f"{n:02}".ljust(40, "k"): "v" * 500 for n in range(50)},
    }
    response = merchant.pay(**longest)

    assert response.status_code == 201
    assert merchant.get(response.headers["Location"]).json | longest == response.json


def test_optional_fields_may_be_null(merchant: Caller) -> None:
    assert merchant.pay(reference=None, description=None, customer_id=None).status_code == 201


def test_missing_fields_are_required(merchant: Caller) -> None:
    response = merchant.post("/v1/transactions", {})

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {"/amount": "required", "/currency": "required"}


@pytest.mark.parametrize("token", ["tok_aprove", "pm_card_visa", "TOK_APPROVE", " tok_approve"])
def test_an_unknown_payment_method_is_rejected(merchant: Caller, token: str) -> None:
    response = merchant.pay(payment_method=token)

    expect_problem(response, 422, "unknown_payment_method")
    assert field_errors(response) == {"/payment_method": "unknown_payment_method"}


def test_every_error_of_a_request_is_listed(merchant: Caller) -> None:
    response = merchant.post("/v1/transactions", {"amount": "1", "currency": "XXX", "colour": "red"})

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {
        "/amount": "invalid_type",
        "/currency": "unsupported_currency",
        "/colour": "unknown_field",
    }


def test_a_failed_transaction_shows_its_failure(merchant: Caller) -> None:
    made = merchant.pay().json["id"]
    execute(
        "UPDATE transactions SET status = 'failed', failure_code = 'do_not_honor', failure_category = 'declined',"
        " failure_message = 'The issuer declined.', failure_retryable = false WHERE id = CAST(:id AS uuid)",
        id=made,
    )

    response = merchant.get(f"/v1/transactions/{made}")

    Transaction.model_validate_json(response.data)
    assert response.json["failure"] == {
        "code": "do_not_honor",
        "message": "The issuer declined.",
        "category": "declined",
        "retryable": False,
    }


def test_a_payment_is_stored_by_one_statement(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    merchant.pay({"Idempotency-Key": "warm"})  # reads the revocations, opens the connection
    statements: list[str] = []
    execute = psycopg.Cursor.execute

    def noted(cursor: psycopg.Cursor[Any], statement: Any, *rest: Any, **options: Any) -> Any:
        statements.append(str(statement))
        return execute(cursor, statement, *rest, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    assert merchant.pay({"Idempotency-Key": "k"}).status_code == 201

    housekeeping = ("revoked_tokens", "rate_limits")  # at most once a second
    assert len([statement for statement in statements if not any(name in statement for name in housekeeping)]) == 1
