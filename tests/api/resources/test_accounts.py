"""Registration, log-in and log-out."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from gateway.api.resources.accounts import RegisteredMerchant, UserToken
from tests.api.conftest import PASSWORD, Caller, expect_problem, field_errors
from tests.helpers.factories import count

ADA = {"email": "ada@example.com", "password": PASSWORD, "business_name": "Ada's Bookshop"}


def test_a_registration_creates_a_merchant_an_owner_and_an_api_client(anonymous: Caller) -> None:
    response = anonymous.post("/auth/register", ADA)

    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    RegisteredMerchant.model_validate_json(response.data)
    made = response.json
    assert list(made) == ["user", "merchant", "access_token", "client"]
    assert made["user"]["email"] == "ada@example.com"
    assert made["user"]["role"] == "owner"
    assert made["merchant"]["business_name"] == "Ada's Bookshop"
    assert count("merchants") == count("users") == count("api_clients") == 1


def test_the_token_of_a_registration_is_valid_for_payments(app: Flask, anonymous: Caller) -> None:
    made = anonymous.post("/auth/register", ADA).json

    response = Caller(app, made["access_token"]).pay()

    assert response.status_code == 201
    assert response.json["merchant_id"] == made["merchant"]["id"]


def test_passwords_and_secrets_are_stored_only_as_hashes(anonymous: Caller) -> None:
    secret = anonymous.post("/auth/register", ADA).json["client"]["client_secret"]

    assert count("users", "password_hash LIKE '$argon2id$%'") == 1
    assert count("users", f"password_hash LIKE '%{PASSWORD}%'") == 0
    assert count("api_clients", f"secret_hash = convert_to('{secret}', 'UTF8')") == 0
    assert count("api_clients", "octet_length(secret_hash) = 32") == 1


def test_an_email_can_be_registered_once_in_any_case(anonymous: Caller) -> None:
    anonymous.post("/auth/register", ADA)

    response = anonymous.post("/auth/register", ADA | {"email": "ADA@Example.com"})

    expect_problem(response, 409, "email_taken")
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
def test_an_invalid_registration_is_rejected(
    anonymous: Caller, fields: dict[str, object], pointer: str, code: str
) -> None:
    response = anonymous.post("/auth/register", ADA | fields)

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {pointer: code}
    assert count("merchants") == count("users") == 0


@pytest.mark.parametrize("field", ["role", "merchant_id", "scopes"])
def test_a_registration_cannot_set_roles_or_scopes(anonymous: Caller, field: str) -> None:
    expect_problem(anonymous.post("/auth/register", ADA | {field: "operator"}), 422, "unknown_field")


@pytest.mark.parametrize(
    "password", ["x" * 12, "x" * 128, "пароль из слов", " leading and trailing ", "🐎" * 12, "🐎" * 128]
)
def test_any_password_of_12_to_128_characters_is_accepted(anonymous: Caller, password: str) -> None:
    assert anonymous.post("/auth/register", ADA | {"password": password}).status_code == 201
    assert anonymous.post("/auth/login", {"email": ADA["email"], "password": password}).status_code == 200


def test_a_login_returns_a_token_with_all_scopes_of_a_merchant(app: Flask, anonymous: Caller) -> None:
    anonymous.post("/auth/register", ADA)

    response = anonymous.post("/auth/login", {"email": "Ada@Example.com", "password": PASSWORD})

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    UserToken.model_validate_json(response.data)
    assert list(response.json) == ["access_token", "token_type", "expires_in"]
    assert (response.json["token_type"], response.json["expires_in"]) == ("Bearer", 3600)
    caller = Caller(app, response.json["access_token"])
    assert caller.pay().status_code == 201
    assert caller.get("/v1/settlements").status_code == 200


@pytest.mark.parametrize(
    ("email", "password"),
    [("ada@example.com", "wrong"), ("ada@example.com", PASSWORD + " "), ("nobody@example.com", PASSWORD), ("x", "y")],
)
def test_a_wrong_email_and_a_wrong_password_have_the_same_response(
    anonymous: Caller, email: str, password: str
) -> None:
    anonymous.post("/auth/register", ADA)

    response = anonymous.post("/auth/login", {"email": email, "password": password})

    problem = expect_problem(response, 401, "invalid_credentials")
    assert problem["detail"] == "The email or the password is incorrect"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_login_with_an_unknown_email_takes_the_same_time(anonymous: Caller) -> None:
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


def test_a_logout_revokes_only_the_token_of_the_request(app: Flask, merchant: Caller) -> None:
    other = Caller(app, _login(merchant))

    response = merchant.post("/auth/logout")

    assert (response.status_code, response.data) == (204, b"")
    assert "Content-Type" not in response.headers
    refused = merchant.get("/v1/transactions")
    expect_problem(refused, 401, "invalid_token")
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert other.get("/v1/transactions").status_code == 200
    assert count("revoked_tokens") == 1


def test_a_revoked_token_cannot_log_out_again(merchant: Caller) -> None:
    merchant.post("/auth/logout")

    expect_problem(merchant.post("/auth/logout"), 401, "invalid_token")


def _login(merchant: Caller) -> str:
    body = {"email": merchant.facts["user"]["email"], "password": PASSWORD}
    response = Caller(merchant.app).post("/auth/login", body)
    token: str = response.json["access_token"]
    return token
