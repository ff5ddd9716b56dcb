"""The acquirer charges at most once per key, loses nothing, and has exactly the requested faults."""

import csv
import io
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from gateway.sandbox.store import FEE_BASIS_POINTS, PAGE_ROWS, Store
from tests.helpers.waiting import eventually
from tests.sandbox.process import AcquirerProcess

pytestmark = pytest.mark.unit


def new_key() -> str:
    return str(uuid4())


def refund(acquirer: AcquirerProcess, charge_id: str, amount: int, key: str | None = None) -> requests.Response:
    body = {"idempotency_key": key or new_key(), "charge_id": charge_id, "amount": amount}
    return acquirer.call("POST", "/refunds", json=body)


def statement(acquirer: AcquirerProcess, **period: str) -> list[dict[str, str]]:
    response = acquirer.call("GET", "/statement", params=period)
    return list(csv.DictReader(io.StringIO(response.text)))


def code(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def is_refusing(acquirer: AcquirerProcess) -> bool:
    try:
        acquirer.call("GET", "/health")
    except requests.ConnectionError:
        return True
    return False


def test_a_repeated_charge_gets_the_first_result_and_a_different_one_a_conflict(
    acquirer: AcquirerProcess,
) -> None:
    key = new_key()
    first, again = acquirer.post_charge(key), acquirer.post_charge(key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == acquirer.call("GET", f"/charges/{key}").json()
    assert code(acquirer.post_charge(key, amount=999)) == (409, "idempotency_conflict")
    assert len(acquirer.charges(key)) == 1


def test_fifty_concurrent_posts_with_one_key_charge_once(acquirer: AcquirerProcess) -> None:
    key = new_key()
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda _: acquirer.post_charge(key), range(50)))
    assert sorted(response.status_code for response in responses) == [200] * 49 + [201]
    assert len({response.text for response in responses}) == 1
    assert len(acquirer.charges(key)) == 1


def test_a_charge_that_got_a_response_survives_a_sigkill_under_load(own_acquirer: AcquirerProcess) -> None:
    confirmed: dict[str, str] = {}
    enough = threading.Event()

    def post_until_it_dies() -> None:
        while True:
            key = new_key()
            try:
                confirmed[key] = own_acquirer.post_charge(key).json()["id"]
            except requests.ConnectionError:
                return
            if len(confirmed) >= 100:
                enough.set()

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(post_until_it_dies)
        assert enough.wait(30)
        own_acquirer.kill()
    own_acquirer.start()
    assert {key: own_acquirer.post_charge(key).json()["id"] for key in confirmed} == confirmed
    charged = {charge["idempotency_key"]: charge["id"] for charge in own_acquirer.charges()}
    assert confirmed.items() <= charged.items()
    assert len(charged) <= len(confirmed) + 4


def test_the_count_of_failing_calls_survives_a_sigkill(own_acquirer: AcquirerProcess) -> None:
    key = new_key()
    statuses = [own_acquirer.post_charge(key, "tok_error_twice").status_code]
    own_acquirer.kill()
    own_acquirer.start()
    statuses += [own_acquirer.post_charge(key, "tok_error_twice").status_code for _ in range(2)]
    assert statuses == [503, 503, 201]


def test_charges_survive_a_stop(own_acquirer: AcquirerProcess) -> None:
    key = new_key()
    charge = own_acquirer.post_charge(key).json()
    own_acquirer.stop()
    own_acquirer.start()
    assert own_acquirer.call("GET", f"/charges/{key}").json() == charge


def test_a_charge_in_progress_is_reported_as_processing(acquirer: AcquirerProcess) -> None:
    key = new_key()
    statuses = [acquirer.call("GET", f"/charges/{key}").status_code]
    with ThreadPoolExecutor(1) as pool:
        posted = pool.submit(acquirer.post_charge, key, "tok_slow")
        eventually(
            lambda: acquirer.call("GET", f"/charges/{key}").status_code == 202, what="the charge being in progress"
        )
        assert posted.result().status_code == 201
    statuses.append(acquirer.call("GET", f"/charges/{key}").status_code)
    assert statuses == [404, 200]


def test_concurrent_refunds_never_exceed_the_charge(acquirer: AcquirerProcess) -> None:
    charge_id = acquirer.post_charge(new_key(), amount=1_000).json()["id"]
    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda _: refund(acquirer, charge_id, 100), range(20)))
    assert sorted(response.status_code for response in responses) == [201] * 10 + [422] * 10
    assert code(refund(acquirer, charge_id, 1)) == (422, "amount_exceeds_charge")


def test_a_repeated_refund_gets_the_first_result(acquirer: AcquirerProcess) -> None:
    charge_id, key = acquirer.post_charge(new_key()).json()["id"], new_key()
    responses = [refund(acquirer, charge_id, 600, key) for _ in range(2)]
    assert [response.status_code for response in responses] == [201, 200]
    assert responses[0].json() == responses[1].json() == acquirer.call("GET", f"/refunds/{key}").json()
    assert code(refund(acquirer, charge_id, 400, key)) == (409, "idempotency_conflict")


def test_a_declined_or_unknown_charge_cannot_be_refunded(acquirer: AcquirerProcess) -> None:
    declined = acquirer.post_charge(new_key(), "tok_decline_fraud").json()
    assert declined["decline_code"] == "fraud_suspected"
    assert code(refund(acquirer, declined["id"], 1)) == (422, "not_refundable")
    assert code(refund(acquirer, "ch_none", 1)) == (404, "unknown_charge")
    assert code(acquirer.call("GET", f"/refunds/{new_key()}")) == (404, "unknown_refund")


def test_the_statement_lists_charges_and_refunds(own_acquirer: AcquirerProcess) -> None:
    charges = [own_acquirer.post_charge(new_key(), amount=amount).json() for amount in (1_000, 2_550, 1)]
    own_acquirer.post_charge(new_key(), "tok_decline_fraud")
    refunded = refund(own_acquirer, charges[0]["id"], 400).json()
    lines = statement(own_acquirer)
    assert [(line["type"], line["charge_id"], int(line["amount"]), int(line["fee"])) for line in lines] == [
        ("charge", charges[0]["id"], 1_000, 1_000 * FEE_BASIS_POINTS // 10_000),
        ("charge", charges[1]["id"], 2_550, 46),
        ("charge", charges[2]["id"], 1, 0),
        ("refund", charges[0]["id"], 400, 0),
    ]
    assert [line["idempotency_key"] for line in lines[:3]] == [charge["idempotency_key"] for charge in charges]
    assert (lines[3]["idempotency_key"], lines[3]["time"]) == (refunded["idempotency_key"], refunded["created_at"])
    period = {"from": charges[1]["created_at"], "to": charges[2]["created_at"]}
    assert [line["charge_id"] for line in statement(own_acquirer, **period)] == [charges[1]["id"]]


def test_lists_are_complete_and_can_be_continued(own_acquirer: AcquirerProcess) -> None:
    ids = [own_acquirer.post_charge(new_key()).json()["id"] for _ in range(3)]
    lines = own_acquirer.call("GET", "/charges", params={"after": 1}).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids[1:]
    refunded = refund(own_acquirer, ids[0], 1).json()
    assert [json.loads(line) for line in own_acquirer.call("GET", "/refunds").text.splitlines()] == [refunded]


def test_several_pages_are_listed_completely(tmp_path: Path) -> None:
    store, count = Store(tmp_path / "acquirer.db"), 2 * PAGE_ROWS + 1
    for number in range(count):
        store.charge(str(number), 100, "USD", "tok_approve", None)
    charges = list(itertools.chain.from_iterable(store.all_charges(0)))
    assert [charge.idempotency_key for charge in charges] == [str(number) for number in range(count)]
    assert sum(map(len, store.statement("", "9999"))) == count
    store.close()


VALID_CHARGE = {"idempotency_key": "k", "amount": 1, "currency": "USD", "payment_method": "tok_approve"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff",
        b"[" * 16_000,
        *(
            json.dumps(VALID_CHARGE | change).encode()
            for change in (
                {"amount": 0},
                {"amount": -1},
                {"amount": 1.0},
                {"amount": "1"},
                {"amount": True},
                {"amount": 10**12},
                {"currency": "usd"},
                {"currency": None},
                {"idempotency_key": ""},
                {"idempotency_key": "k" * 256},
                {"idempotency_key": "é"},
                {"payment_method": ""},
                {"payment_method": "\ud800"},
                {"surprise": 1},
            )
        ),
    ],
)
def test_a_malformed_charge_is_rejected_and_charges_nothing(acquirer: AcquirerProcess, body: bytes) -> None:
    before = len(acquirer.charges())
    response = acquirer.call("POST", "/charges", data=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert len(acquirer.charges()) == before


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/charges", {"data": b"x" * 20_000}, 413),
        ("POST", "/charges", {"data": iter([b"x"])}, 411),
        ("GET", "/health", {"headers": {"X-Long": "x" * 20_000}}, 431),
        ("DELETE", "/charges/k", {}, 405),
        ("GET", "/nothing", {}, 404),
        ("GET", "/charges?after=-1", {}, 400),
        ("GET", "/statement?from=yesterday", {}, 400),
        ("GET", "/statement?from=2026-01-01T00:00:00", {}, 400),
        ("GET", "/statement?from=0001-01-01T00:00:00%2B14:00", {}, 400),
        ("PUT", "/control", {"json": {"mode": "nice"}}, 400),
        ("PUT", "/control", {"json": {"mode": "slow", "probability": 2}}, 400),
    ],
)
def test_an_invalid_request_gets_an_error_with_a_reason(
    acquirer: AcquirerProcess, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    response = acquirer.call(method, path, **options)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "message"}


def test_the_same_seed_hits_the_same_calls(acquirer: AcquirerProcess) -> None:
    runs = []
    for _ in range(2):
        acquirer.control("error_before", probability=0.5, seed=7)
        runs.append([acquirer.post_charge(new_key()).status_code for _ in range(20)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {201, 503}


def test_connections_are_accepted_again_after_the_given_time(own_acquirer: AcquirerProcess) -> None:
    own_acquirer.control("refuse", seconds=0.5)
    eventually(lambda: is_refusing(own_acquirer), what="the refusal")
    eventually(lambda: not is_refusing(own_acquirer), what="its end")
    assert own_acquirer.call("GET", "/control").json()["mode"] == "normal"


def test_flapping_continues_until_the_mode_changes(own_acquirer: AcquirerProcess) -> None:
    own_acquirer.control("flap", seconds=0.3)
    for _ in range(2):
        eventually(lambda: is_refusing(own_acquirer), what="the outage")
        eventually(lambda: not is_refusing(own_acquirer), what="the end of the outage")
    own_acquirer.control("normal")
    assert own_acquirer.post_charge(new_key()).status_code == 201


def test_a_hanging_charge_ends_when_its_client_disconnects(acquirer: AcquirerProcess) -> None:
    key = new_key()
    body = VALID_CHARGE | {"idempotency_key": key, "payment_method": "tok_hang"}
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{acquirer.url}/charges", json=body, timeout=0.3)
    eventually(lambda: acquirer.call("GET", f"/charges/{key}").status_code == 404, what="the charge being forgotten")
    assert acquirer.charges(key) == []
