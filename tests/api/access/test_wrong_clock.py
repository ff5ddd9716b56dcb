"""An API host with a wrong clock, and a database with the right time."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests

from gateway import db
from gateway.clock import MEASURE_SECONDS, database_clock
from gateway.db import autocommit, begin
from gateway.domain.payments import requeueing
from gateway.domain.payments.kinds import TRANSACTIONS
from gateway.domain.payments.transactions import TIME_OFF_MAX_SECONDS
from gateway.flows.routing import route
from gateway.flows.settlement import settle
from tests.api.access.test_tokens import claims_of, signed
from tests.api.conftest import Caller
from tests.api.process import ApiProcess, api_process
from tests.helpers.factories import count, execute
from tests.helpers.waiting import eventually
from tests.helpers.wrong_clocks import environment_with_clock

TIMEOUT_SECONDS = 15


@dataclass(frozen=True)
class WrongHost:
    """Access of a merchant to an API process with a wrong clock, with a token that this process issued."""

    api: ApiProcess
    token: str

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        response = requests.request(
            method, f"{self.api.url}{path}", json=body, headers=headers, timeout=TIMEOUT_SECONDS
        )
        assert response.ok, response.text
        return response.json()

    def pay(self) -> Any:
        return self.call("POST", "/v1/transactions", {"amount": 1000, "currency": "USD"})


CLOCKS = ["+1d", "-1d"]


@pytest.fixture(scope="module", params=CLOCKS)
def wrong_api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Run a host whose clock is a day ahead or a day behind."""
    log = Path(tmp_path_factory.mktemp("wrong-clock")) / "api.log"
    with api_process(log, 1, **environment_with_clock(request.param)) as api:
        yield api


@pytest.fixture
def wrong_host(merchant: Caller, wrong_api: ApiProcess) -> WrongHost:
    """Get a token from the host with the wrong clock."""
    form = {"grant_type": "client_credentials", **merchant.facts["client"]}
    response = requests.post(f"{wrong_api.url}/oauth/token", data=form, timeout=TIMEOUT_SECONDS)
    return WrongHost(wrong_api, response.json()["access_token"])


def seconds_since(text: str) -> float:
    """Return the seconds since a time in a response, by the database's clock."""
    with autocommit() as connection:
        found: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return (found - datetime.fromisoformat(text)).total_seconds()


def stuck() -> list[UUID]:
    with begin() as connection:
        return requeueing.stuck(connection, TRANSACTIONS, 0, 100)


def test_a_payment_accepted_by_a_host_with_a_wrong_clock_is_like_any_other(
    merchant: Caller, wrong_host: WrongHost
) -> None:
    first, second, third = merchant.pay().json, wrong_host.pay(), merchant.pay().json

    assert 0 <= seconds_since(second["created_at"]) < 60
    for response in (merchant.get("/v1/transactions").json, wrong_host.call("GET", "/v1/transactions")):
        assert [payment["id"] for payment in response["data"]] == [third["id"], second["id"], first["id"]]
    since = {"created_from": first["created_at"], "created_to": third["created_at"]}
    within = merchant.get("/v1/transactions", query_string=since).json["data"]
    assert [payment["id"] for payment in within] == [second["id"], first["id"]]

    execute("DELETE FROM outbox")
    assert UUID(second["id"]) in stuck(), "the sweep does not find it"

    id = UUID(second["id"])
    route([id])
    settle([id], "task-1")
    settled = merchant.get(f"/v1/transactions/{id}").json
    assert settled["status"] == "completed"
    assert settled["created_at"] <= settled["completed_at"] <= settled["updated_at"]
    entries = merchant.get(f"/v1/transactions/{id}/timeline").json["data"]
    times = [entry["at"] for entry in entries]
    assert times == sorted(times)

    refund = wrong_host.call("POST", f"/v1/transactions/{id}/refunds", {})
    assert 0 <= seconds_since(refund["created_at"]) < 60
    assert merchant.get(f"/v1/transactions/{id}").json["updated_at"] >= settled["updated_at"]


def test_a_host_with_a_wrong_clock_and_others_accept_the_same_tokens(merchant: Caller, wrong_host: WrongHost) -> None:
    def status_there(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(f"{wrong_host.api.url}/v1/balance", headers=headers, timeout=TIMEOUT_SECONDS).status_code

    assert status_there(str(merchant.token)) == 200
    assert Caller(merchant.app, wrong_host.token).get("/v1/balance").status_code == 200
    now = int(time.time())
    for times in ({"exp": now - 1}, {"iat": now + 60}):
        assert status_there(signed(claims_of(merchant, **times))) == 401


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.usefixtures("database")
def test_such_a_host_is_not_ready_and_reports_it_in_its_response_log_metrics_and_one_alert(
    clock: str, tmp_path: Path
) -> None:
    with api_process(tmp_path / "api.log", 1, **environment_with_clock(clock)) as api:
        expect_reports(api)


def expect_reports(api: ApiProcess) -> None:
    def ready() -> requests.Response:
        return requests.get(f"{api.url}/health/ready", timeout=TIMEOUT_SECONDS)

    eventually(lambda: ready().json()["code"] != "database_unavailable", what="the first connection")
    for _ in range(3):
        response = ready()
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        assert "the database's" in response.json()["detail"]
    assert requests.get(f"{api.url}/health/live", timeout=TIMEOUT_SECONDS).status_code == 200

    metrics = requests.get(f"{api.url}/metrics", timeout=TIMEOUT_SECONDS).text
    [line] = [line for line in metrics.splitlines() if line.startswith("clock_offset_seconds ")]
    assert abs(float(line.split()[1])) == pytest.approx(86_400, abs=60)

    off = "details->>'kind' = 'clock_far_off'"

    def alerted() -> int:
        ready()
        return count("alerts", off)

    retried = (
        MEASURE_SECONDS + TIMEOUT_SECONDS
    )  # an alert that cannot be stored is raised again at the next measurement
    eventually(alerted, within=retried, what="the alert")
    assert count("alerts", off) == 1
    found = [
        line for line in api.log.read_text().splitlines() if "WARNING" in line and "The clock of this host" in line
    ]
    assert len(found) == 1


def test_with_a_higher_limit_a_host_with_a_wrong_clock_is_ready(tmp_path: Path, merchant: Caller) -> None:
    assert merchant.get("/health/ready").json["clock_offset_seconds"] == pytest.approx(0, abs=2)
    shifted = environment_with_clock("+90s")
    with api_process(tmp_path / "api.log", 1, **shifted, CLOCK_OFFSET_MAX_SECONDS="120") as api:
        response = requests.get(f"{api.url}/health/ready", timeout=TIMEOUT_SECONDS)
        assert response.status_code == 200
        assert response.json()["clock_offset_seconds"] == pytest.approx(90, abs=10)


@pytest.mark.parametrize("wrong_by", [2 * TIME_OFF_MAX_SECONDS, -2 * TIME_OFF_MAX_SECONDS])
def test_a_payment_with_a_wrong_time_after_a_suspension_of_the_process_is_stored_with_the_right_one(
    merchant: Caller, wrong_by: int
) -> None:
    merchant.get("/v1/balance")  # caches the verification of the token
    database_clock.forget()
    database_clock.measure(lambda: datetime.now(UTC) + timedelta(seconds=wrong_by))
    try:
        response = merchant.pay({"Idempotency-Key": "k"})
    finally:
        db.measure_time()

    assert response.status_code == 201
    assert 0 <= seconds_since(response.json["created_at"]) < 60
    again = merchant.pay({"Idempotency-Key": "k"})
    assert (again.data, again.headers["Idempotency-Replayed"]) == (response.data, "true")
    assert count("transactions") == 1
