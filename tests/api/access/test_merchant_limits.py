"""Limits of a merchant, regardless of its number of API clients."""

from collections.abc import Iterator

import pytest
from flask import Flask

from gateway.api.access import merchant_limits, rate_limits
from gateway.config import settings
from gateway.db import autocommit
from gateway.domain.merchants.accounts import MERCHANT_SCOPES, Identity
from gateway.domain.operations import backlog
from tests.api.conftest import Caller, expect_problem, signed_in
from tests.helpers.captured_sql import executed, read_by, statements
from tests.helpers.factories import accept_payment, count, execute

MOST = 20


def use(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    """Use these settings for the limits, and discard their state."""
    changed = settings().model_copy(update=changes)
    for module in (rate_limits, merchant_limits):
        monkeypatch.setattr(module, "settings", lambda: changed)
    rate_limits.forget()
    merchant_limits.forget()


@pytest.fixture(autouse=True)
def _no_state() -> Iterator[None]:
    yield
    rate_limits.forget()
    merchant_limits.forget()


def clients_of(merchant: Caller, number: int, app: Flask) -> list[Caller]:
    identities = [Identity(f"client-{index}", merchant.merchant_id, MERCHANT_SCOPES) for index in range(number)]
    return [signed_in(app, identity, merchant.facts) for identity in identities]


def test_all_clients_of_a_merchant_share_its_limit(
    app: Flask, merchant: Caller, other_merchant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, rate_limit_per_second=10, merchant_rate_limit_per_second=15)
    clients = clients_of(merchant, 16, app)
    responses = [client.get("/v1/settlements") for _ in range(4) for client in clients]
    accepted = sum(response.status_code == 200 for response in responses)
    assert 15 <= accepted < 40, "16 clients with 4 requests each, none of them above its own limit"
    refused = next(response for response in responses if response.status_code == 429)
    problem = expect_problem(refused, 429, "rate_limited")
    assert "this merchant, all its API clients together" in problem["detail"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert other_merchant.get("/v1/settlements").status_code == 200


def test_the_error_of_a_client_above_its_own_limit_says_so(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, rate_limit_per_second=3, merchant_rate_limit_per_second=1_000)
    responses = [merchant.get("/v1/settlements") for _ in range(30)]
    refused = next(response for response in responses if response.status_code == 429)
    assert "this API client or user" in expect_problem(refused, 429, "rate_limited")["detail"]


def test_a_limit_of_zero_disables_it(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, merchant_rate_limit_per_second=0, merchant_unfinished_max=0)
    assert {merchant.pay().status_code for _ in range(30)} == {201}
    assert count("rate_limits", "subject LIKE 'merchant:%'") == 0


def test_operators_have_no_limit_of_a_merchant(operator: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, merchant_rate_limit_per_second=1)
    assert {operator.get("/v1/dead-letters").status_code for _ in range(10)} == {200}


def test_a_merchant_with_too_many_unfinished_payments_can_pay_again_when_they_finish(
    merchant: Caller, other_merchant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, merchant_unfinished_max=MOST)
    accept_all(merchant)
    assert count("transactions") == MOST
    refused = merchant.pay()
    problem = expect_problem(refused, 429, "rate_limited")
    assert f"{MOST} payments without an outcome" in problem["detail"]
    assert refused.headers["Retry-After"] == "1"
    assert merchant.get("/v1/transactions").status_code == 200, "only payments are limited"
    assert other_merchant.pay().status_code == 201

    execute("UPDATE transactions SET status = 'canceled'")
    merchant_limits.forget()
    assert merchant.pay().status_code == 201


def accept_all(merchant: Caller) -> None:
    """Create payments until the limit is reached; near the limit, a process counts frequently."""
    for _ in range(100 * MOST):
        if merchant.pay().status_code == 429 and count("transactions") >= MOST:
            return
    pytest.fail("the limit was not reached")


def test_a_payment_far_below_the_limit_needs_no_count(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, merchant_unfinished_max=100_000)
    merchant.pay()
    with statements() as sent:
        assert {merchant.pay().status_code for _ in range(20)} == {201}
    assert not [statement for statement in sent if "count" in statement.sql]


def test_counting_unfinished_payments_reads_only_these_up_to_the_maximum(
    merchant: Caller, other_merchant: Caller
) -> None:
    first, other = accept_payment(merchant.merchant_id), accept_payment(other_merchant.merchant_id)
    copies = """
        INSERT INTO transactions (id, merchant_id, amount, currency, payment_method, status, attempt_limit, request_id,
                                  created_at, updated_at)
        SELECT uuid_v7(), merchant_id, amount, currency, payment_method, :status, 4, request_id, now(), now()
        FROM transactions, generate_series(1, 2000) WHERE id = :id
    """
    execute(copies, status="canceled", id=first)
    execute(copies, status="pending", id=other)
    execute("ANALYZE transactions")  # as autovacuum does; the statistics of earlier tests would mislead the planner
    with autocommit() as connection, statements() as sent:
        assert backlog.unfinished_of(connection, merchant.merchant_id, 500) == 1
        assert backlog.unfinished_of(connection, other_merchant.merchant_id, 500) == 500
    for statement, most in zip(sent, (5, 600), strict=True):
        plan = executed(statement)
        assert sum(read_by(node) for node in plan) <= most, plan
