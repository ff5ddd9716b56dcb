"""Two merchants, an operator, and one object of every kind."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from gateway.db import begin
from gateway.domain.merchants.accounts import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.flows.reconciliation import reconcile_as_requested
from gateway.models import all_tables
from tests.api.conftest import Caller, make_operator, register
from tests.helpers import lifecycles
from tests.helpers.statements import csv_of, line

OPERATOR = "operator@example.com"


@dataclass(frozen=True)
class World:
    """`ids` are those of objects of `merchant`, and of objects without a merchant. `other` has no objects."""

    merchant: Caller
    other: Caller
    operator: Caller
    ids: Mapping[str, str]

    def caller_with(self, scope: str) -> Caller:
        """Return the caller that may have `scope`."""
        return self.operator if scope in OPERATOR_SCOPES else self.merchant

    def caller_without(self, scope: str) -> Caller:
        """Return the caller that can never have `scope`."""
        return self.operator if scope in MERCHANT_SCOPES else self.merchant


def _made(caller: Caller, path: str, body: dict[str, Any]) -> str:
    response = caller.post(path, body)
    assert response.status_code in {201, 202}, response.text
    return str(response.json["id"])


def _statement(operator: Caller) -> tuple[str, str]:
    """Upload a statement with an unknown charge; return its id, and that of the discrepancy."""
    response = operator.post("/v1/statements?provider=simulated", csv_of(line()), content_type="text/csv")
    assert response.status_code == 201, response.text
    run = response.json["reconciliation_id"]
    reconcile_as_requested(UUID(run))
    return str(response.json["id"]), str(operator.get(f"/v1/reconciliations/{run}/discrepancies").json["data"][0]["id"])


def _objects(merchant: Caller, operator: Caller) -> dict[str, str]:
    endpoint = _made(merchant, "/v1/webhook-endpoints", {"url": "https://example.com/webhooks", "events": ["*"]})
    completed, _ = (lifecycles.completed(merchant.merchant_id) for _ in range(2))
    refund = _made(merchant, f"/v1/transactions/{completed}/refunds", {"amount": 1})
    _, dead_letter = lifecycles.dead_lettered(merchant.merchant_id)
    period = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}

    def newest(path: str) -> str:
        response = merchant.get(path)
        assert response.status_code == 200, response.text
        return str(response.json["data"][0]["id"])

    statement, discrepancy = _statement(operator)
    return {
        "statement": statement,
        "discrepancy": discrepancy,
        "transaction": str(completed),
        "refund": refund,
        "settlement": newest("/v1/settlements"),
        "api_client": newest("/v1/api-clients"),
        "webhook_endpoint": endpoint,
        "endpoint": endpoint,
        "event": newest("/v1/events"),
        "merchant": str(merchant.merchant_id),
        "dead_letter": str(dead_letter),
        "dead_letter_job": _made(
            operator, "/v1/dead-letters/bulk", {"action": "replay", "filter": {}, "dry_run": True}
        ),
        "reconciliation": _made(operator, "/v1/reconciliations", period),
    }


@pytest.fixture(scope="module")
def world(app: Flask) -> Iterator[World]:
    """Return a world for all tests of a module, which must not change it."""
    merchant = register(app)
    operator = make_operator(app, OPERATOR)
    yield World(merchant, register(app), operator, _objects(merchant, operator))
    with begin() as connection:
        for table in reversed(all_tables().sorted_tables):
            connection.execute(table.delete())
