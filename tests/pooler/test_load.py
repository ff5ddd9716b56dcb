"""Real processes behind PgBouncer: every payment is accepted and settled with few database sessions."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests
from sqlalchemy import URL

from tasks import topology
from tests.api.process import api_process
from tests.end_to_end.client import Client, register
from tests.helpers.waiting import eventually
from tests.pooler.conftest import POOL_SIZE
from tests.pooler.pgbouncer import PgBouncer
from tests.pooler.running import flask, roles

PAYMENTS, CALLERS = 1_800, 24
SETTLE_SECONDS = 90
LOOKS = 10
"""Number of consecutive checks, because a relay that keeps a session returns it only briefly."""
WORKERS = ("relay", "worker-route", "worker-settle", "worker-operations")
SETTLED = """
    SELECT count(*) FROM transactions t JOIN settlements s ON s.transaction_id = t.id
    WHERE t.status = 'completed' AND t.merchant_id = %s
"""
SESSIONS = """
    SELECT application_name, query, state FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
"""

Truth = psycopg.Connection[Any]


@pytest.fixture
def truth(pooler: PgBouncer, direct: URL) -> Iterator[Truth]:  # noqa: ARG001
    """Connect to the database directly."""
    url = direct.set(query={"application_name": "truth"}).render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def _pay_and_read(api_url: str, token: str, numbers: range) -> Counter[int]:
    client = Client(api_url, token)
    seen: Counter[int] = Counter()
    for number in numbers:
        body = {"amount": 100 + number, "currency": "USD"}
        response = client.call("POST", "/v1/transactions", json=body, headers={"Idempotency-Key": f"order-{number}"})
        seen[response.status_code] += 1
        if response.status_code == 201:
            seen[client.call("GET", response.headers["Location"]).status_code] += 1
    return seen


def test_concurrent_payments_are_all_accepted_and_settled_with_few_sessions(
    tmp_path: Path, both: dict[str, str], pooler: PgBouncer, truth: Truth
) -> None:
    topology.declare()
    with api_process(tmp_path / "api.log", workers=2, **both) as api, roles(tmp_path, *WORKERS, **both) as logs:
        ready = requests.get(f"{api.url}/health/ready", timeout=10)
        assert ready.status_code == 200, ready.text
        merchant = register(api.url, f"{uuid4().hex}@example.com")
        token = str(merchant.session.headers["Authorization"]).removeprefix("Bearer ")

        with ThreadPoolExecutor(CALLERS) as callers:
            shares = [range(first, PAYMENTS, CALLERS) for first in range(CALLERS)]
            responses = sum(callers.map(partial(_pay_and_read, api.url, token), shares), Counter[int]())
        assert responses == {201: PAYMENTS, 200: PAYMENTS}, api.log.read_text()[-4_000:]

        merchant_id = merchant.get("/v1/transactions", limit=1)["data"][0]["merchant_id"]
        eventually(
            lambda: truth.execute(SETTLED, (merchant_id,)).fetchone() == (PAYMENTS,),
            within=SETTLE_SECONDS,
            what="the settlement of every payment",
        )
        flask("invariants", **both)
        _expect_few_sessions(truth, pooler)
        assert merchant.call("POST", "/auth/logout").status_code == 204
        assert {merchant.call("GET", "/v1/balance").status_code for _ in range(8)} == {401}, "of both processes"
    warnings = [line for log in logs.values() for line in log.read_text().splitlines() if '"WARNING"' in line]
    assert not [line for line in warnings if "atabase" in line]


def _expect_few_sessions(truth: Truth, pooler: PgBouncer) -> None:
    """Assert that there are only sessions of the pool and of the relay's LISTEN, and that idle processes use none."""
    sessions = [row for row in truth.execute(SESSIONS).fetchall() if row[0] != "truth"]
    listening = [row for row in sessions if row[1] == "LISTEN outbox"]
    assert len(listening) == 1, sessions
    assert len(sessions) <= POOL_SIZE + len(listening), sessions
    eventually(lambda: not any(_sessions_in_use(pooler) for _ in range(LOOKS)), what="an idle pool")


def _sessions_in_use(pooler: PgBouncer) -> int:
    return sum(row["sv_active"] for row in pooler.console("SHOW POOLS") if row["pool_mode"] == "transaction")
