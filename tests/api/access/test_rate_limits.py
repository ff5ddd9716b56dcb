"""Rate limits of callers and addresses, in one process and across processes."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
from flask import Flask

from gateway import database_sessions, db
from gateway.api.access import rate_limits
from gateway.api.access.rate_limits import LEASE_SECONDS, PAUSE_SECONDS, LeasedTokens
from gateway.api.http import middleware
from gateway.app import create_app
from gateway.config import settings
from gateway.domain.merchants.rate_limits import Limit, network_of
from tests.api.conftest import Caller, expect_problem
from tests.api.process import ApiProcess, api_process
from tests.helpers.captured_sql import Statement, statements
from tests.helpers.factories import count

LIMIT = 50
"""Requests per second of one client."""
HAMMER_SECONDS = 4.0
THREADS = 4
ROUNDS = 4
HTTP_SECONDS = 10
FORM = {"grant_type": "password"}


def use(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    """Use these settings for the limits, and discard all leases."""
    changed = settings().model_copy(update=changes)
    monkeypatch.setattr(rate_limits, "settings", lambda: changed)
    rate_limits.forget()


@pytest.fixture(autouse=True)
def _no_leases() -> Iterator[None]:
    yield
    rate_limits.forget()


def statuses(caller: Caller, times: int) -> list[int]:
    return [caller.get("/v1/settlements").status_code for _ in range(times)]


def test_a_client_above_its_limit_gets_retry_after(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, rate_limit_per_second=5)

    responses = [merchant.pay() for _ in range(5)]
    while responses[-1].status_code == 201:
        responses.append(merchant.pay())

    assert len(responses) > 5
    expect_problem(responses[-1], 429, "rate_limited")
    assert responses[-1].headers["Retry-After"] == "1"
    assert count("transactions") == len(responses) - 1


def test_clients_have_separate_limits(
    merchant: Caller, other_merchant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, rate_limit_per_second=5)
    assert 429 in statuses(merchant, 20)

    assert statuses(other_merchant, 5) == [200] * 5


def test_a_limit_of_zero_disables_it(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, rate_limit_per_second=0)

    assert statuses(merchant, 50) == [200] * 50
    assert count("rate_limits", "subject LIKE 'caller:%'") == 0


def test_an_address_above_its_limit_cannot_log_in_but_pay(
    merchant: Caller, anonymous: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, auth_rate_limit_per_second=1, auth_rate_limit_burst=3)
    tries = [anonymous.call("POST", "/oauth/token", data=FORM) for _ in range(3)]
    assert {response.status_code for response in tries} == {400}

    for refused in (
        anonymous.call("POST", "/oauth/token", data=FORM),
        anonymous.post("/auth/login", {}),
        anonymous.post("/auth/register", {}),
        merchant.post("/auth/logout"),
    ):
        expect_problem(refused, 429, "rate_limited")
        assert refused.headers["Retry-After"] == "1"
    assert merchant.pay().status_code == 201
    elsewhere = anonymous.call("POST", "/oauth/token", data=FORM, environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert elsewhere.status_code == 400


@pytest.mark.unit
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8", False),
        (None, "", True),
    ],
)
def test_an_ipv6_address_is_limited_by_its_64_bit_network(one: str | None, other: str | None, same: bool) -> None:
    assert (network_of(one) == network_of(other)) == same


@pytest.mark.parametrize(("proxies", "tried"), [(0, 1), (1, 2)])
def test_the_address_is_that_of_the_trusted_proxy(
    anonymous: Caller, monkeypatch: pytest.MonkeyPatch, proxies: int, tried: int
) -> None:
    changed = settings().model_copy(update={"trusted_proxies": proxies})
    monkeypatch.setattr(middleware, "settings", lambda: changed)
    use(monkeypatch, auth_rate_limit_per_second=1, auth_rate_limit_burst=1)
    caller = Caller(create_app())

    seen = ["203.0.113.1", "198.51.100.1, 203.0.113.2"]  # entries before that of the proxy are written by the caller
    responses = [caller.call("POST", "/oauth/token", data=FORM, headers={"X-Forwarded-For": found}) for found in seen]

    assert [response.status_code for response in responses].count(400) == tried
    assert count("rate_limits", "subject = 'address:198.51.100.1'") == 0
    assert anonymous.get("/health/live").status_code == 200


@dataclass(frozen=True)
class Leases:
    """The leases of this process."""

    sent: list[Statement]

    @property
    def count(self) -> int:
        """Return their number."""
        return sum("rate_limits" in statement.sql for statement in self.sent)


@pytest.fixture
def leases() -> Iterator[Leases]:
    with statements() as sent:
        yield Leases(sent)


def test_requests_rarely_query_the_database(merchant: Caller, leases: Leases) -> None:
    rate_limits.forget()
    started = time.monotonic()
    statuses(merchant, 300)
    seconds = time.monotonic() - started

    # The client's bucket: 2 + 4 + 8 + 16 + 32 + 50 + 50 + …; the merchant's: 2 + 4 + 8 + 16 + 32 + 64 + 100 + …
    assert leases.count <= 20 + 4 * seconds / LEASE_SECONDS


def test_a_caller_above_its_limit_rarely_queries_the_database(
    merchant: Caller, monkeypatch: pytest.MonkeyPatch, leases: Leases
) -> None:
    use(monkeypatch, rate_limit_per_second=1)
    started = time.monotonic()
    responses = Counter(statuses(merchant, 500))
    seconds = time.monotonic() - started

    assert responses[429] >= 400
    assert leases.count <= 2 + seconds / PAUSE_SECONDS
    assert leases.count < 100


def test_an_occasional_caller_leases_one_token_at_a_time(app: Flask, merchant: Caller, leases: Leases) -> None:
    now = [0.0]
    tokens = LeasedTokens("s", Limit(1_000, 1_000), clock=lambda: now[0])
    with app.app_context():
        for _ in range(20):
            assert tokens.take() == 0.0
            now[0] += LEASE_SECONDS

    assert leases.count == 20
    assert count("rate_limits", "subject = 's' AND tokens >= 960") == 1
    assert merchant.get("/v1/settlements").status_code == 200


def test_payments_are_accepted_while_the_table_of_the_limits_is_locked(
    merchant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, rate_limit_per_second=1)
    with db.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE rate_limits")
        started = time.monotonic()
        responses = [merchant.pay().status_code for _ in range(20)]
        seconds = time.monotonic() - started

    assert responses == [201] * 20
    assert seconds < 3 * database_sessions.LOCK_TIMEOUT_MS / 1_000  # only one request waits


@pytest.mark.unit
def test_the_number_of_cached_leases_is_limited() -> None:
    for number in range(rate_limits.BUCKETS_MAX + 100):
        rate_limits.leased_tokens(f"address:{number}", Limit(1, 1))

    assert rate_limits.leased_tokens.cache_info().currsize == rate_limits.BUCKETS_MAX


def hammer(url: str, token: str, until: float, responses: Counter[int], lock: threading.Lock) -> None:
    """Send requests until then, and count the responses by status."""
    host = url.removeprefix("http://")
    found: Counter[int] = Counter()
    connection = HTTPConnection(host, timeout=HTTP_SECONDS)
    while time.monotonic() < until:
        connection.request("GET", "/v1/settlements", headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        response.read()
        found[response.status] += 1
    connection.close()
    with lock:
        responses.update(found)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Sequence[ApiProcess]]:
    """Run two hosts, each with two API processes."""
    environment = {"RATE_LIMIT_PER_SECOND": str(LIMIT), "LOG_LEVEL": "WARNING"}
    with (
        api_process(tmp_path / "one.log", 2, **environment) as one,
        api_process(tmp_path / "other.log", 2, **environment) as other,
    ):
        yield one, other


def accepted_per_second(callers: Sequence[Caller], hosts: Sequence[ApiProcess]) -> list[float]:
    """Return the accepted requests per second of each caller, while all send to all hosts."""
    counted: list[Counter[int]] = [Counter() for _ in callers]
    lock = threading.Lock()
    started = time.monotonic()
    with ThreadPoolExecutor(len(callers) * THREADS) as threads:
        for caller, responses in zip(callers, counted, strict=True):
            assert caller.token is not None
            for number in range(THREADS):
                url = hosts[number % len(hosts)].url
                threads.submit(hammer, url, caller.token, started + HAMMER_SECONDS, responses, lock)
    seconds = time.monotonic() - started
    assert all(set(responses) <= {200, 429} for responses in counted), counted
    assert all(responses[200] <= LIMIT * (1 + seconds) for responses in counted), counted  # the burst, and the rate
    return [responses[200] / seconds for responses in counted]


def test_a_limit_holds_across_processes_and_hosts(
    merchant: Caller, other_merchant: Caller, hosts: Sequence[ApiProcess]
) -> None:
    rounds: list[list[float]] = []
    for _ in range(ROUNDS):  # on a busy machine the callers may be too slow
        rounds.append(accepted_per_second((merchant, other_merchant), hosts))
        if all(0.9 * LIMIT <= accepted <= 1.1 * LIMIT for accepted in rounds[-1]):
            return
        time.sleep(1)  # until the buckets are full
    pytest.fail(f"accepted per second, by round: {rounds}")
