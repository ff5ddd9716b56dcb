"""A gateway application with the test database, and callers of every kind."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from gateway.api.access import tokens
from gateway.app import create_app
from gateway.config import settings
from gateway.db import begin
from gateway.domain.merchants import accounts
from gateway.domain.merchants.accounts import Identity
from gateway.ids import new_id
from gateway.security.passwords import hash_password
from tests.api.process import ApiProcess, api_process

PASSWORD = "correct horse battery staple"


class Response(TestResponse):
    """A response whose `json` is not None; only a type."""

    @property
    def json(self) -> Any:
        return super().json


@dataclass(frozen=True)
class Caller:
    """A caller of the API, with or without an access token."""

    app: Flask
    token: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def call(self, method: str, path: str, **options: Any) -> Response:
        headers = dict(options.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return cast(Response, self.app.test_client().open(path, method=method, headers=headers, **options))

    def get(self, path: str, **options: Any) -> Response:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Response:
        """Post `body` as JSON; bytes are sent unchanged."""
        if body is not None:
            options["data"] = body if isinstance(body, bytes) else json.dumps(body).encode()
            options.setdefault("content_type", "application/json")
        return self.call("POST", path, **options)

    def pay(self, headers: Mapping[str, str] | None = None, **fields: Any) -> Response:
        """Post a valid payment, changed by `fields`."""
        return self.post("/v1/transactions", {"amount": 1000, "currency": "USD", **fields}, headers=headers or {})

    @property
    def merchant_id(self) -> UUID:
        return UUID(self.facts["merchant"]["id"])


@pytest.fixture(scope="session")
def app() -> Flask:
    """Return the application."""
    return create_app()


@pytest.fixture
def anonymous(app: Flask, database: None) -> Caller:  # noqa: ARG001
    """Return a caller without an access token."""
    return Caller(app)


@cache
def hashed_password() -> str:
    """Return the hash of `PASSWORD`, cached because hashing takes longer than most tests."""
    return hash_password(PASSWORD)


def signed_in(app: Flask, identity: Identity, facts: Mapping[str, Any]) -> Caller:
    """Return a caller with an access token of this user."""
    with app.app_context():
        return Caller(app, tokens.issue(identity), facts)


def register(app: Flask) -> Caller:
    """Create a merchant as `POST /auth/register` does; return its owner."""
    with begin() as connection:
        made = accounts.register(
            connection,
            email=f"{new_id().hex}@example.com",
            password_hash=hashed_password(),
            business_name="Ada's Bookshop",
            fee_basis_points=settings().fee_basis_points,
        )
    client = {"client_id": made.client.client_id, "client_secret": made.client.client_secret}
    return signed_in(app, made.owner, {"user": made.user, "merchant": made.merchant, "client": client})


@pytest.fixture
def merchant(app: Flask, database: None) -> Caller:  # noqa: ARG001
    """Return the owner of a new merchant."""
    return register(app)


@pytest.fixture
def other_merchant(app: Flask, database: None) -> Caller:  # noqa: ARG001
    """Return the owner of another new merchant."""
    return register(app)


@pytest.fixture
def operator(app: Flask, database: None) -> Caller:  # noqa: ARG001
    """Return a new operator."""
    return make_operator(app, "operator@example.com")


def make_operator(app: Flask, email: str) -> Caller:
    """Create an operator as `flask users create-operator` does."""
    with begin() as connection:
        accounts.create_operator(connection, email=email, password_hash=hashed_password(), actor="test")
        user = accounts.find_user(connection, email)
    assert user is not None
    return signed_in(app, user.identity, {"email": email})


@pytest.fixture(scope="package")
def running_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Run an API with default settings, for all tests that change no setting and do not stop it."""
    with api_process(Path(tmp_path_factory.mktemp("api")) / "api.log") as api:
        yield api


def expect_problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Check the status and the code of an error (RFC 9457); return the problem document."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.data)
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"].endswith(code)
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert ("errors" in problem) == (status == 422)
    return problem


def field_errors(response: Response) -> dict[str, str]:
    """Return the code of the error at each pointer of a 422 response."""
    return {error["pointer"]: error["code"] for error in json.loads(response.data)["errors"]}
