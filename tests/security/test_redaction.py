"""Redaction of secrets in log lines."""

import secrets
import time

import pytest

from gateway.domain.merchants.api_clients import CLIENT_SECRET_BYTES
from gateway.security.redaction import redact

pytestmark = pytest.mark.unit

JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0.eyJzdWIiOiJjbF8xIn0.c2lnbmF0dXJl-X_Y"
SECRET = "hunter2-Correct"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer {}",
        "authorization: basic {}",
        "{{'Authorization': 'Basic {}'}}",
        "HTTP_AUTHORIZATION=Bearer {}",
        "Cookie: session={}",
        "cannot connect to amqp://payments:{}@rabbitmq:5672/payments",
        "postgresql+psycopg://u:{}@db1:5432,db2:5432/d?sslmode=require",
        "http://:{}@127.0.0.1/",
        'body {{"email": "ada@example.com", "password": "{}"}}',
        "password={}&grant_type=x",
        "client_secret={}",
        "{{'client_secret': '{}', 'x': 1}}",
        "PGPASSWORD={}",
        "previous_secret=b'{}'",
        "whsec_{}",
        "api-key: {}",
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
        "DETAIL:  Failing row contains (1, {}, null).",
        "DETAIL:  Key (email)=({}) already exists.",
    ],
)
def test_a_secret_is_redacted_in_every_form(text: str) -> None:
    shown = redact(f"before {text.format(SECRET)} after")

    assert "hunter2" not in shown
    assert "Correct" not in shown
    assert "[redacted]" in shown
    assert shown.startswith("before ")


@pytest.mark.parametrize("text", ["{}", "Bearer {}", "token {} expired", "('{}',)"])
def test_an_access_token_is_redacted(text: str) -> None:
    shown = redact(text.format(JWT))

    assert not any(part in shown for part in JWT.split("."))


def test_a_client_secret_is_redacted_without_its_name() -> None:
    for _ in range(1_000):
        secret = secrets.token_urlsafe(CLIENT_SECRET_BYTES)
        if any(map(str.isdigit, secret)):  # all but one in two thousand
            assert redact(f"no client {secret} here") == "no client [redacted] here"


def test_a_card_number_is_redacted() -> None:
    assert redact("card 4242 4242 4242 4242, 4111-1111-1111-1111") == "card [card number], [card number]"


@pytest.mark.parametrize(
    "text",
    [
        "POST /v1/transactions 201 in 3.2 ms",
        "Task payments.settle[947b2282-b25d-469d-96ec-43c8eddcc60b] succeeded in 0.0123456789012s: None",
        "Basic authentication failed; bearer token missing",
        "The secret of client cl_0123456789abcdef01234567 was rotated",
        "GET http://127.0.0.1:9400/charges?limit=1 200",
        "Connected to amqp://payments:**@127.0.0.1:5672/payments".replace(":**", ""),
        "celery@host ready. 2026-01-31T12:00:00.123456+00:00",
        "password_hash is computed",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
)
def test_ordinary_lines_are_unchanged(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("text", ["a" * 100_000, "://a:" * 20_000, "secret" * 15_000, "eyJ" * 30_000, "-" * 100_000])
def test_long_lines_take_little_time(text: str) -> None:
    started = time.process_time()
    redact(text)

    assert time.process_time() - started < 1
