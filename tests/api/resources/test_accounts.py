"""Registration, login and logout (api.md, Authentication)."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from gateway.api.resources.accounts import RegisteredMerchant, UserToken
from tests.api.conftest import PASSWORD, Caller, expect_problem, field_errors
from tests.helpers.factories import count

ADA = {"email": "ada@example.com", "password": PASSWORD, "business_name": "Ada's Bookshop"}


def test_registering_makes_a_merchant_an_owner_and_a_first_client(anonymous: Caller) -> None:
    answer = anonymous.post("/auth/register", ADA)

    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    RegisteredMerchant.model_validate_json(answer.data)
    made = answer.json
    assert list(made) == ["user", "merchant", "access_token", "client"]
    assert made["user"]["email"] == "ada@example.com"
    assert made["user"]["role"] == "owner"
    assert made["merchant"]["business_name"] == "Ada's Bookshop"
    assert count("merchants") == count("users") == count("api_clients") == 1


def test_the_token_of_a_registration_pays(app: Flask, anonymous: Caller) -> None:
    made = anonymous.post("/auth/register", ADA).json

    answer = Caller(app, made["access_token"]).pay()

    assert answer.status_code == 201
    assert answer.json["merchant_id"] == made["merchant"]["id"]


def test_neither_password_nor_secret_is_stored_in_the_clear(anonymous: Caller) -> None:
    secret = anonymous.post("/auth/register", ADA).json["client"]["client_secret"]

    assert count("users", "password_hash LIKE '$argon2id$%'") == 1
    assert count("users", f"password_hash LIKE '%{PASSWORD}%'") == 0
    assert count("api_clients", f"secret_hash = convert_to('{secret}', 'UTF8')") == 0
    assert count("api_clients", "octet_length(secret_hash) = 32") == 1


def test_an_email_is_taken_once_in_any_case(anonymous: Caller) -> None:
    anonymous.post("/auth/register", ADA)

    answer = anonymous.post("/auth/register", ADA | {"email": "ADA@Example.com"})

    expect_problem(answer, 409, "email_taken")
    assert count("merchants") == count("users") == count("api_clients") == 1


def test_of_concurrent_registrations_with_one_email_one_succeeds(anonymous: Caller) -> None:
    with ThreadPoolExecutor(6) as threads:
        statuses = sorted(threads.map(lambda _: anonymous.post("/auth/register", ADA).status_code, range(6)))

    assert statuses == [201, 409, 409, 409, 409, 409]
    assert count("merchants") == 1


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"email": "ada"}, "/email", "invalid_email"),
        ({"email": "ada@localhost"}, "/email", "invalid_email"),
        ({"email": "@example.com"}, "/email", "invalid_email"),
        ({"email": "ada@exa mple.com"}, "/email", "invalid_email"),
        ({"email": " ada@example.com"}, "/email", "invalid_email"),
        ({"email": "ada@example.com\n"}, "/email", "invalid_email"),
        ({"email": "ada@-example.com"}, "/email", "invalid_email"),
        ({"email": "ada@example..com"}, "/email", "invalid_email"),
        ({"email": "ädä@example.com"}, "/email", "invalid_email"),
        ({"email": "\N{KELVIN SIGN}@example.com"}, "/email", "invalid_email"),
        ({"email": "a" * 65 + "@example.com"}, "/email", "invalid_email"),
        ({"email": "a@" + "b." * 130 + "com"}, "/email", "invalid_length"),
        ({"email": None}, "/email", "invalid_type"),
        ({"password": "x" * 11}, "/password", "invalid_length"),
        ({"password": "x" * 129}, "/password", "invalid_length"),
        ({"password": "🐎" * 11}, "/password", "invalid_length"),
        ({"password": "🐎" * 129}, "/password", "invalid_length"),
        ({"password": 123456789012}, "/password", "invalid_type"),
        ({"password": "x" * 12 + "\x00"}, "/password", "invalid_characters"),
        ({"business_name": ""}, "/business_name", "invalid_length"),
        ({"business_name": "   "}, "/business_name", "invalid_length"),
        ({"business_name": "b" * 256}, "/business_name", "invalid_length"),
    ],
)
def test_a_registration_that_is_not_valid_is_refused(
    anonymous: Caller, fields: dict[str, object], pointer: str, code: str
) -> None:
    answer = anonymous.post("/auth/register", ADA | fields)

    expect_problem(answer, 422, "validation_failed")
    assert field_errors(answer) == {pointer: code}
    assert count("merchants") == count("users") == 0


@pytest.mark.parametrize("field", ["role", "merchant_id", "scopes"])
def test_nobody_registers_as_more_than_a_merchant(anonymous: Caller, field: str) -> None:
    expect_problem(anonymous.post("/auth/register", ADA | {field: "operator"}), 422, "unknown_field")


@pytest.mark.parametrize(
    "password", ["x" * 12, "x" * 128, "пароль из слов", " leading and trailing ", "🐎" * 12, "🐎" * 128]
)
def test_any_password_of_12_to_128_characters_works(anonymous: Caller, password: str) -> None:
    assert anonymous.post("/auth/register", ADA | {"password": password}).status_code == 201
    assert anonymous.post("/auth/login", {"email": ADA["email"], "password": password}).status_code == 200


def test_a_login_gives_a_token_with_every_scope_of_a_merchant(app: Flask, anonymous: Caller) -> None:
    anonymous.post("/auth/register", ADA)

    answer = anonymous.post("/auth/login", {"email": "Ada@Example.com", "password": PASSWORD})

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    UserToken.model_validate_json(answer.data)
    assert list(answer.json) == ["access_token", "token_type", "expires_in"]
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 3600)
    caller = Caller(app, answer.json["access_token"])
    assert caller.pay().status_code == 201
    assert caller.get("/v1/settlements").status_code == 200


@pytest.mark.parametrize(
    ("email", "password"),
    [("ada@example.com", "wrong"), ("ada@example.com", PASSWORD + " "), ("nobody@example.com", PASSWORD), ("x", "y")],
)
def test_a_wrong_login_says_the_same_whatever_is_wrong(anonymous: Caller, email: str, password: str) -> None:
    anonymous.post("/auth/register", ADA)

    answer = anonymous.post("/auth/login", {"email": email, "password": password})

    problem = expect_problem(answer, 401, "invalid_credentials")
    assert problem["detail"] == "The email or the password is incorrect"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_login_with_an_unknown_email_takes_as_long(anonymous: Caller) -> None:
    anonymous.post("/auth/register", ADA)

    def fastest(email: str) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            anonymous.post("/auth/login", {"email": email, "password": "a wrong password"})
            times.append(time.perf_counter() - started)
        return min(times)

    known, unknown = fastest("ada@example.com"), fastest("nobody@example.com")

    assert 0.5 < known / unknown < 2


def test_logging_out_revokes_the_token_in_hand_and_no_other(app: Flask, merchant: Caller) -> None:
    other = Caller(app, _login(merchant))

    answer = merchant.post("/auth/logout")

    assert (answer.status_code, answer.data) == (204, b"")
    assert "Content-Type" not in answer.headers
    refused = merchant.get("/v1/transactions")
    expect_problem(refused, 401, "invalid_token")
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert other.get("/v1/transactions").status_code == 200
    assert count("revoked_tokens") == 1


def test_a_token_is_revoked_once(merchant: Caller) -> None:
    merchant.post("/auth/logout")

    expect_problem(merchant.post("/auth/logout"), 401, "invalid_token")


def _login(merchant: Caller) -> str:
    body = {"email": merchant.facts["user"]["email"], "password": PASSWORD}
    answer = Caller(merchant.app).post("/auth/login", body)
    token: str = answer.json["access_token"]
    return token
