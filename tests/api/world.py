"""Two merchants, an operator, and one object of every kind that a call can name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from flask import Flask

from gateway.db import begin
from gateway.domain import merchants
from gateway.domain.merchants import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.models import all_tables
from gateway.passwords import hash_password
from tests import lifecycles, refunds
from tests.api.conftest import PASSWORD, Caller, register

OPERATOR = "operator@example.com"


@dataclass(frozen=True)
class World:
    """`ids` name objects of `merchant`, except for those of operators, which are nobody's. `other` has nothing."""

    merchant: Caller
    other: Caller
    operator: Caller
    ids: Mapping[str, str]

    def who_may(self, scope: str) -> Caller:
        """The caller whose calls need `scope`."""
        return self.operator if scope in OPERATOR_SCOPES else self.merchant

    def who_may_not(self, scope: str) -> Caller:
        """The caller whom `scope` is never given to."""
        return self.operator if scope in MERCHANT_SCOPES else self.merchant


def _log_in_operator(app: Flask) -> Caller:
    with begin() as connection:
        merchants.create_operator(connection, email=OPERATOR, password_hash=hash_password(PASSWORD), actor="test")
    answer = Caller(app).post("/auth/login", {"email": OPERATOR, "password": PASSWORD})
    return Caller(app, answer.json["access_token"])


def _objects(merchant: Caller) -> dict[str, str]:
    completed, _ = (lifecycles.completed(merchant.merchant_id) for _ in range(2))
    _, dead_letter = lifecycles.dead_lettered(merchant.merchant_id)

    def newest(path: str) -> str:
        answer = merchant.get(path)
        assert answer.status_code == 200, answer.text
        return str(answer.json["data"][0]["id"])

    return {
        "transaction": str(completed),
        "refund": str(refunds.ask(completed, 1)),
        "settlement": newest("/v1/settlements"),
        "api_client": newest("/v1/api-clients"),
        "dead_letter": str(dead_letter),
    }


@pytest.fixture(scope="module")
def world(app: Flask) -> Iterator[World]:
    """One world for all tests of a module, which must leave it as it is."""
    merchant = register(app)
    yield World(merchant, register(app), _log_in_operator(app), _objects(merchant))
    with begin() as connection:
        for table in reversed(all_tables().sorted_tables):
            connection.execute(table.delete())
