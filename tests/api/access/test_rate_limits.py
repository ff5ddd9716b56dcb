"""Rate limits (api.md, Conventions): what callers see, and that they hold across processes."""

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
    """Have the limiter take these settings, and forget what it leased."""
    changed = settings().model_copy(update=changes)
    monkeypatch.setattr(rate_limits, "settings", lambda: changed)
    rate_limits.forget()


@pytest.fixture(autouse=True)
def _nothing_leased() -> Iterator[None]:
    yield
    rate_limits.forget()


def statuses(caller: Caller, times: int) -> list[int]:
    return [caller.get("/v1/settlements").status_code for _ in range(times)]


def test_a_client_over_its_limit_is_told_when_to_come_again(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, rate_limit_per_second=5)

    answers = [merchant.pay() for _ in range(5)]
    while answers[-1].status_code == 201:
        answers.append(merchant.pay())

    assert len(answers) > 5
    expect_problem(answers[-1], 429, "rate_limited")
    assert answers[-1].headers["Retry-After"] == "1"
    assert count("transactions") == len(answers) - 1


def test_clients_do_not_share_a_limit(
    merchant: Caller, other_merchant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, rate_limit_per_second=5)
    assert 429 in statuses(merchant, 20)

    assert statuses(other_merchant, 5) == [200] * 5


def test_a_limit_of_zero_is_none(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, rate_limit_per_second=0)

    assert statuses(merchant, 50) == [200] * 50
    assert count("rate_limits", "subject LIKE 'caller:%'") == 0


def test_an_address_over_its_limit_signs_in_later_and_pays_meanwhile(
    merchant: Caller, anonymous: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, auth_rate_limit_per_second=1, auth_rate_limit_burst=3)
    tries = [anonymous.call("POST", "/oauth/token", data=FORM) for _ in range(3)]
    assert {answer.status_code for answer in tries} == {400}

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
def test_an_ipv6_host_is_its_network_of_64_bits(one: str | None, other: str | None, same: bool) -> None:
    assert (network_of(one) == network_of(other)) == same


@pytest.mark.parametrize(("proxies", "tried"), [(0, 1), (1, 2)])
def test_the_address_is_the_one_that_a_trusted_proxy_saw(
    anonymous: Caller, monkeypatch: pytest.MonkeyPatch, proxies: int, tried: int
) -> None:
    changed = settings().model_copy(update={"trusted_proxies": proxies})
    monkeypatch.setattr(middleware, "settings", lambda: changed)
    use(monkeypatch, auth_rate_limit_per_second=1, auth_rate_limit_burst=1)
    caller = Caller(create_app())

    seen = ["203.0.113.1", "198.51.100.1, 203.0.113.2"]  # what stands before the proxy's own entry is the caller's word
    answers = [caller.call("POST", "/oauth/token", data=FORM, headers={"X-Forwarded-For": found}) for found in seen]

    assert [answer.status_code for answer in answers].count(400) == tried
    assert count("rate_limits", "subject = 'address:198.51.100.1'") == 0
    assert anonymous.get("/health/live").status_code == 200


@dataclass(frozen=True)
class Leases:
    """The leases that this process takes."""

    sent: list[Statement]

    @property
    def count(self) -> int:
        """How many there were."""
        return sum("rate_limits" in statement.sql for statement in self.sent)


@pytest.fixture
def leases() -> Iterator[Leases]:
    with statements() as sent:
        yield Leases(sent)


def test_requests_seldom_ask_the_database(merchant: Caller, leases: Leases) -> None:
    rate_limits.forget()
    started = time.monotonic()
    statuses(merchant, 300)
    seconds = time.monotonic() - started

    # The client's bucket: 2 + 4 + 8 + 16 + 32 + 50 + 50 + …; the merchant's: 2 + 4 + 8 + 16 + 32 + 64 + 100 + …
    assert leases.count <= 20 + 4 * seconds / LEASE_SECONDS


def test_a_caller_over_the_limit_seldom_asks_the_database(
    merchant: Caller, monkeypatch: pytest.MonkeyPatch, leases: Leases
) -> None:
    use(monkeypatch, rate_limit_per_second=1)
    started = time.monotonic()
    answers = Counter(statuses(merchant, 500))
    seconds = time.monotonic() - started

    assert answers[429] >= 400
    assert leases.count <= 2 + seconds / PAUSE_SECONDS
    assert leases.count < 100


def test_who_comes_once_in_a_while_takes_no_more_than_is_needed(app: Flask, merchant: Caller, leases: Leases) -> None:
    now = [0.0]
    tokens = LeasedTokens("s", Limit(1_000, 1_000), clock=lambda: now[0])
    with app.app_context():
        for _ in range(20):
            assert tokens.take() == 0.0
            now[0] += LEASE_SECONDS

    assert leases.count == 20
    assert count("rate_limits", "subject = 's' AND tokens >= 960") == 1
    assert merchant.get("/v1/settlements").status_code == 200


def test_without_its_table_the_limiter_lets_payments_through(merchant: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, rate_limit_per_second=1)
    with db.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE rate_limits")
        started = time.monotonic()
        answers = [merchant.pay().status_code for _ in range(20)]
        seconds = time.monotonic() - started

    assert answers == [201] * 20
    assert seconds < 3 * database_sessions.LOCK_TIMEOUT_MS / 1_000  # one request waits, the next ones do not


def test_leases_are_kept_for_a_bounded_number_of_subjects() -> None:
    for number in range(rate_limits.BUCKETS_MAX + 100):
        rate_limits.leased_tokens(f"address:{number}", Limit(1, 1))

    assert rate_limits.leased_tokens.cache_info().currsize == rate_limits.BUCKETS_MAX


def hammer(url: str, token: str, until: float, answers: Counter[int], lock: threading.Lock) -> None:
    """Ask again and again until then."""
    host = url.removeprefix("http://")
    found: Counter[int] = Counter()
    connection = HTTPConnection(host, timeout=HTTP_SECONDS)
    while time.monotonic() < until:
        connection.request("GET", "/v1/settlements", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        answer.read()
        found[answer.status] += 1
    connection.close()
    with lock:
        answers.update(found)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Sequence[ApiProcess]]:
    """Two hosts of two API processes each."""
    environment = {"RATE_LIMIT_PER_SECOND": str(LIMIT), "LOG_LEVEL": "WARNING"}
    with (
        api_process(tmp_path / "one.log", 2, **environment) as one,
        api_process(tmp_path / "other.log", 2, **environment) as other,
    ):
        yield one, other


def accepted_per_second(callers: Sequence[Caller], hosts: Sequence[ApiProcess]) -> list[float]:
    """How many requests of each caller were let in while all hammer all hosts."""
    counted: list[Counter[int]] = [Counter() for _ in callers]
    lock = threading.Lock()
    started = time.monotonic()
    with ThreadPoolExecutor(len(callers) * THREADS) as threads:
        for caller, answers in zip(callers, counted, strict=True):
            assert caller.token is not None
            for number in range(THREADS):
                url = hosts[number % len(hosts)].url
                threads.submit(hammer, url, caller.token, started + HAMMER_SECONDS, answers, lock)
    seconds = time.monotonic() - started
    assert all(set(answers) <= {200, 429} for answers in counted), counted
    assert all(answers[200] <= LIMIT * (1 + seconds) for answers in counted), counted  # the burst, and the rate
    return [answers[200] / seconds for answers in counted]


def test_a_limit_holds_across_processes_and_hosts(
    merchant: Caller, other_merchant: Caller, hosts: Sequence[ApiProcess]
) -> None:
    rounds: list[list[float]] = []
    for _ in range(ROUNDS):  # on a busy machine the callers may not ask often enough
        rounds.append(accepted_per_second((merchant, other_merchant), hosts))
        if all(0.9 * LIMIT <= accepted <= 1.1 * LIMIT for accepted in rounds[-1]):
            return
        time.sleep(1)  # to full buckets
    pytest.fail(f"accepted per second, by round: {rounds}")
