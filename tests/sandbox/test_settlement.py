"""Settlement with a faulty acquirer: it charges once, and the gateway settles what it charged."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.config import settings
from gateway.db import autocommit, begin
from gateway.domain.payments import settling as settlements
from gateway.flows import routing
from gateway.flows.provider_calls import ProcessedList
from gateway.flows.settlement import settle
from gateway.providers import poison, registry
from tests.helpers.factories import (
    accept_payment,
    count,
    expire_lease,
    make_merchant,
    route_payments,
    status_of,
)
from tests.helpers.waiting import eventually
from tests.sandbox.process import ROOT, AcquirerProcess, Configure

pytestmark = pytest.mark.usefixtures("database")

RUN_SECONDS = 60


@pytest.fixture(autouse=True)
def sandbox_is_the_provider(acquirer: AcquirerProcess, configure: Configure) -> None:
    """Send payments to the acquirer, which has 0.6 s for a response."""
    configure(PROVIDERS="sandbox", SANDBOX_ACQUIRER_URL=acquirer.url, PROVIDER_TIMEOUT_SECONDS="1")


def outcomes(transaction_id: UUID) -> list[tuple[str, str | None]]:
    """Return outcome and code of each attempt in order."""
    query = text("SELECT outcome, code FROM charge_attempts WHERE transaction_id = :id ORDER BY number")
    with begin() as connection:
        return [(row.outcome, row.code) for row in connection.execute(query, {"id": transaction_id})]


def settled_reference(transaction_id: UUID) -> str:
    """Return the provider's reference of the only settlement."""
    query = text("SELECT provider_reference FROM settlements WHERE transaction_id = :id")
    with begin() as connection:
        return str(connection.execute(query, {"id": transaction_id}).scalar_one())


def assert_settled_as_charged(acquirer: AcquirerProcess, ids: Sequence[UUID]) -> None:
    """Check that each of `ids` is completed with its only charge at the acquirer."""
    for id in ids:
        assert status_of(id) == "completed"
        [charge] = acquirer.charges(str(id))
        assert settled_reference(id) == charge["id"]
    assert count("settlements") == len(ids)


def test_a_payment_is_settled_with_the_charge_of_the_acquirer(acquirer: AcquirerProcess) -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    assert settle([id], "task-1").completed == [id]
    assert_settled_as_charged(acquirer, [id])


@pytest.mark.parametrize("mode", ["drop_after", "error_after", "slow", "garbage", "wrong_amount"])
def test_the_status_query_completes_a_charge_whose_response_is_lost(acquirer: AcquirerProcess, mode: str) -> None:
    acquirer.control(mode, late_ms=3_000)
    [id] = route_payments(make_merchant(), "tok_approve")
    assert settle([id], "task-1").completed == [id]
    assert outcomes(id) == [("approved", None)]
    assert_settled_as_charged(acquirer, [id])


@pytest.mark.parametrize("mode", ["drop_after", "error_after", "garbage", "wrong_amount", "hang"])
def test_an_unknown_charge_is_queried_before_it_is_sent_again(acquirer: AcquirerProcess, mode: str) -> None:
    acquirer.control(mode, calls="all")
    [id] = route_payments(make_merchant(), "tok_approve")
    assert settle([id], "task-1") == ProcessedList(retry=[id])
    assert [outcome for outcome, _ in outcomes(id)] == ["unknown"]
    assert count("settlements") == 0
    acquirer.control("normal")
    assert settle([id], "task-1").completed == [id]
    assert_settled_as_charged(acquirer, [id])


@pytest.mark.parametrize("mode", ["error_before", "drop_before"])
def test_a_charge_that_was_not_processed_is_sent_again(acquirer: AcquirerProcess, mode: str) -> None:
    acquirer.control(mode)
    [id] = route_payments(make_merchant(), "tok_approve")
    assert settle([id], "task-1").retry == [id]
    assert [outcome for outcome, _ in outcomes(id)] == ["unavailable"]
    assert acquirer.charges(str(id)) == []
    acquirer.control("normal")
    assert settle([id], "task-1").completed == [id]
    assert_settled_as_charged(acquirer, [id])


def test_an_unavailable_acquirer_delays_payments_and_loses_none(
    own_acquirer: AcquirerProcess, configure: Configure
) -> None:
    configure(SANDBOX_ACQUIRER_URL=own_acquirer.url)
    ids = route_payments(make_merchant(), *["tok_approve"] * 5)
    own_acquirer.kill()
    assert set(settle(ids, "task-1").retry) == set(ids)
    assert outcomes(ids[0]) == [("unavailable", "connection_refused")]
    own_acquirer.start()
    assert set(settle(ids, "task-1").completed) == set(ids)
    assert_settled_as_charged(own_acquirer, ids)


def test_an_acquirer_that_dies_after_charging_is_queried_after_its_restart(
    own_acquirer: AcquirerProcess, configure: Configure
) -> None:
    configure(SANDBOX_ACQUIRER_URL=own_acquirer.url, PROVIDER_TIMEOUT_SECONDS="10")
    own_acquirer.control("slow", late_ms=60_000)
    [id] = route_payments(make_merchant(), "tok_approve")
    with ThreadPoolExecutor(1) as pool:
        settling = pool.submit(settle, [id], "task-1")
        eventually(lambda: own_acquirer.charges(str(id)), what="the charge")
        own_acquirer.kill()
        assert settling.result().retry == [id]
    assert [outcome for outcome, _ in outcomes(id)] == ["unknown"]
    own_acquirer.start()
    own_acquirer.control("hang")  # so that only the query finds the charge
    assert settle([id], "task-1").completed == [id]
    assert_settled_as_charged(own_acquirer, [id])


def test_a_worker_does_not_charge_while_another_charge_is_in_progress(
    acquirer: AcquirerProcess, configure: Configure
) -> None:
    configure(PROVIDER_TIMEOUT_SECONDS="10")
    [id] = route_payments(make_merchant(), "tok_slow")
    with ThreadPoolExecutor(1) as pool:
        orphaned = pool.submit(settle, [id], "task-1")
        path = f"/charges/{id}"
        eventually(lambda: acquirer.call("GET", path).status_code == 202, what="the charge being in progress")
        expire_lease([id])
        assert settle([id], "task-2").retry == [id]
        assert orphaned.result().completed == [id]
    assert outcomes(id) == [("approved", None), ("unknown", "in_progress")]
    assert_settled_as_charged(acquirer, [id])


def test_two_workers_that_both_find_the_charge_settle_it_once(acquirer: AcquirerProcess, configure: Configure) -> None:
    configure(PROVIDER_TIMEOUT_SECONDS="10")
    acquirer.control("slow", late_ms=2_000)
    [id] = route_payments(make_merchant(), "tok_approve")
    with ThreadPoolExecutor(1) as pool:
        orphaned = pool.submit(settle, [id], "task-1")
        eventually(lambda: acquirer.charges(str(id)), what="the charge")
        expire_lease([id])
        assert settle([id], "task-2").completed == [id]
        assert orphaned.result().completed == []
    assert count("ledger_entries") == 3
    assert_settled_as_charged(acquirer, [id])


def test_workers_that_charge_the_same_payments_concurrently_charge_each_once(acquirer: AcquirerProcess) -> None:
    ids = route_payments(make_merchant(), *["tok_approve"] * 20)
    claims = []
    for task in ("task-1", "task-2"):
        for id in ids:
            with autocommit() as connection:
                claims += settlements.claim(connection, [id], task, settings().claim_lease_seconds).claims
        expire_lease(ids)
    assert len(claims) == 40
    with ThreadPoolExecutor(40) as pool:
        responses = list(
            pool.map(lambda claim: (claim, registry.provider("sandbox").charge(claim.instruction)), claims)
        )
    for response in responses:
        with autocommit() as connection:
            settlements.record(connection, [response])
    assert_settled_as_charged(acquirer, ids)


def test_under_all_faults_exactly_the_charges_are_settled(acquirer: AcquirerProcess) -> None:
    ids = route_payments(make_merchant(), *["tok_approve", "tok_error_once", "tok_garbage"] * 10)
    for seed, mode in enumerate(("drop_after", "error_after", "drop_before")):
        acquirer.control(mode, calls="all", probability=0.7, seed=seed)
        settle([id for id in ids if status_of(id) == "processing"], f"task-{seed}")
    assert count("transactions", "status = 'completed'") not in {0, 30}
    acquirer.control("normal")
    settle(ids, "task-last")
    assert_settled_as_charged(acquirer, ids)


def test_new_payments_are_routed_to_the_first_provider(configure: Configure) -> None:
    configure(PROVIDERS="simulated, sandbox")
    id = accept_payment(make_merchant())
    routing.route([id])
    assert count("transactions", "provider = 'simulated'") == 1


def test_a_payment_of_a_provider_that_is_no_longer_listed_is_still_settled(
    acquirer: AcquirerProcess, configure: Configure
) -> None:
    acquirer.control("drop_after", calls="all")
    [id] = route_payments(make_merchant(), "tok_approve")
    assert settle([id], "task-1").retry == [id]
    configure(PROVIDERS="simulated")
    acquirer.control("normal")
    assert settle([id], "task-1").completed == [id]
    assert_settled_as_charged(acquirer, [id])


_SETTLE = """
import json, os, sys
from uuid import UUID
from gateway.flows.settlement import settle
result = settle([UUID(id) for id in sys.argv[1:]], "task-1")
sys.stdout.write(json.dumps({"completed": list(map(str, result.completed)), "retry": list(map(str, result.retry))}))
sys.stdout.flush()
os._exit(0)  # as a worker's child exits: without waiting for the blocked call
"""


def settle_in_process(ids: Sequence[UUID]) -> "subprocess.CompletedProcess[str]":
    """Settle in a separate process, in which test-only payment methods are allowed."""
    return subprocess.run(
        [sys.executable, "-c", _SETTLE, *map(str, ids)],
        cwd=ROOT,
        env=os.environ | {"GATEWAY_TEST_TOKENS": "1"},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("provider", ["simulated", "sandbox"])
def test_a_blocked_provider_call_becomes_unknown_and_delays_no_other_payment(
    configure: Configure, provider: str
) -> None:
    configure(PROVIDERS=provider)
    hanging, good = ids = route_payments(make_merchant(), poison.HANG, "tok_approve")
    result: dict[str, Any] = json.loads(settle_in_process(ids).stdout)
    assert result == {"completed": [str(good)], "retry": [str(hanging)]}
    assert outcomes(hanging) == [("unknown", "provider_timeout")]


@pytest.mark.parametrize("provider", ["simulated", "sandbox"])
def test_a_payment_that_kills_its_worker_kills_the_next_one_too(configure: Configure, provider: str) -> None:
    configure(PROVIDERS=provider)
    [id] = route_payments(make_merchant(), poison.KILL_WORKER)
    for _ in range(2):
        assert settle_in_process([id]).returncode == -signal.SIGKILL
        expire_lease([id])
    assert count("charge_attempts") == 2


@pytest.mark.parametrize("provider", ["simulated", "sandbox"])
@pytest.mark.parametrize("token", [poison.KILL_WORKER, poison.HANG])
def test_these_payment_methods_are_declined_outside_of_tests(configure: Configure, provider: str, token: str) -> None:
    configure(PROVIDERS=provider, GATEWAY_TEST_TOKENS=None)
    [id] = route_payments(make_merchant(), token)
    settle([id], "task-1")
    assert outcomes(id) == [("declined", "invalid_payment_method")]
    assert status_of(id) == "failed"
