"""A gateway application on the test database, and callers of every kind."""

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


class Answer(TestResponse):
    """An answer whose JSON is there; a type only."""

    @property
    def json(self) -> Any:
        return super().json


@dataclass(frozen=True)
class Caller:
    """Someone who calls the API with one token, or with none."""

    app: Flask
    token: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def call(self, method: str, path: str, **options: Any) -> Answer:
        headers = dict(options.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return cast(Answer, self.app.test_client().open(path, method=method, headers=headers, **options))

    def get(self, path: str, **options: Any) -> Answer:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        """Post `body` as JSON, or as it is when it is bytes."""
        if body is not None:
            options["data"] = body if isinstance(body, bytes) else json.dumps(body).encode()
            options.setdefault("content_type", "application/json")
        return self.call("POST", path, **options)

    def pay(self, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        """Post a payment that is valid but for `fields`."""
        return self.post("/v1/transactions", {"amount": 1000, "currency": "USD", **fields}, headers=headers or {})

    @property
    def merchant_id(self) -> UUID:
        return UUID(self.facts["merchant"]["id"])


@pytest.fixture(scope="session")
def app() -> Flask:
    """The application."""
    return create_app()


@pytest.fixture
def anonymous(app: Flask, database: None) -> Caller:  # noqa: ARG001
    """Someone without a token."""
    return Caller(app)


@cache
def hashed_password() -> str:
    """The stored form of `PASSWORD`. To make it takes as long as all else that most tests here do."""
    return hash_password(PASSWORD)


def signed_in(app: Flask, identity: Identity, facts: Mapping[str, Any]) -> Caller:
    """A user with an access token."""
    with app.app_context():
        return Caller(app, tokens.issue(identity), facts)


def register(app: Flask) -> Caller:
    """A new merchant's owner, as `POST /auth/register` makes one."""
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
    """The owner of a merchant."""
    return register(app)


@pytest.fixture
def other_merchant(app: Flask, database: None) -> Caller:  # noqa: ARG001
    """The owner of another merchant."""
    return register(app)


@pytest.fixture
def operator(app: Flask, database: None) -> Caller:  # noqa: ARG001
    """An operator of the gateway."""
    return make_operator(app, "operator@example.com")


def make_operator(app: Flask, email: str) -> Caller:
    """An operator, as `flask users create-operator` makes one."""
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


def expect_problem(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that must have this status and code (RFC 9457)."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    problem: dict[str, Any] = json.loads(answer.data)
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"].endswith(code)
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert ("errors" in problem) == (status == 422)
    return problem


def field_errors(answer: Answer) -> dict[str, str]:
    """Of a 422: the code of the error at each pointer."""
    return {error["pointer"]: error["code"] for error in json.loads(answer.data)["errors"]}
