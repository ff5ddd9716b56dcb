"""One merchant's backlog delays no other merchant, and is not lost when a worker dies (docs/fairness.md)."""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.end_to_end.client import Client, register
from tests.end_to_end.conftest import Processes
from tests.helpers.waiting import eventually

Truth = psycopg.Connection[dict[str, Any]]

BACKLOG = 2_000
MOST_OF_BACKLOG = 800
POSTERS = 8
SLOW = 150
MIX = ("tok_slow", "tok_error_always", "tok_slow", "tok_timeout_not_charged", "tok_decline_fraud")


def post(merchant: Client, tokens: Sequence[str], number: int) -> list[str]:
    """Create payments with each of the tokens in turn."""

    def one(index: int) -> str:
        id: str = merchant.pay(tokens[index % len(tokens)])["id"]
        return id

    with ThreadPoolExecutor(POSTERS) as threads:
        return list(threads.map(one, range(number)))


def unfinished(truth: Truth, ids: list[str]) -> int:
    query = "SELECT count(*) AS n FROM transactions WHERE id = ANY(%s::uuid[]) AND status IN ('pending', 'processing')"
    row = truth.execute(query, [ids]).fetchone()
    assert row is not None
    return int(row["n"])


@pytest.mark.parametrize("tokens", [("tok_slow",), MIX], ids=["slow", "mix"])
def test_a_merchant_is_served_while_most_of_anothers_backlog_waits(
    merchant: Client, truth: Truth, processes: Processes, tokens: tuple[str, ...]
) -> None:
    other = register(merchant.api_url, f"{os.urandom(8).hex()}@example.com")
    with processes.down("worker-settle", signal.SIGTERM):  # the backlog comes before the other merchant's payments
        backlog = post(merchant, tokens, BACKLOG)
    eventually(lambda: unfinished(truth, backlog) < BACKLOG - 50, within=60, what="the beginning of the backlog")
    for _ in range(5):
        id = other.pay()["id"]
        eventually(lambda id=id: other.transaction(id)["status"] == "completed", within=30)  # type: ignore[misc]
    assert unfinished(truth, backlog) >= MOST_OF_BACKLOG
    eventually(lambda: unfinished(truth, backlog) == 0, within=120, what="the end of the backlog")


def children(leader: int) -> list[int]:
    """Return the processes of a worker's pool."""
    return [int(pid) for pid in Path(f"/proc/{leader}/task/{leader}/children").read_text().split()]


def slow_calls_in_progress(merchant: Client, truth: Truth, processes: Processes) -> list[str]:
    """Create payments, and wait until many of them have a call in progress."""
    with processes.down("worker-settle", signal.SIGTERM):
        ids = post(merchant, ("tok_slow",), SLOW)
    eventually(lambda: attempts(truth, ids, "outcome IS NULL") >= SLOW // 3, within=60, what="calls in progress")
    return ids


def attempts(truth: Truth, ids: list[str], where: str) -> int:
    query = f"SELECT count(*) AS n FROM charge_attempts WHERE transaction_id = ANY(%s::uuid[]) AND {where}"  # noqa: S608
    row = truth.execute(query.encode(), [ids]).fetchone()
    assert row is not None
    return int(row["n"])


def settlements(truth: Truth, ids: list[str]) -> int:
    row = truth.execute(
        "SELECT count(*) AS n FROM settlements WHERE transaction_id = ANY(%s::uuid[])", [ids]
    ).fetchone()
    assert row is not None
    return int(row["n"])


def test_slow_calls_whose_process_is_killed_are_settled_once(
    merchant: Client, truth: Truth, processes: Processes
) -> None:
    ids = slow_calls_in_progress(merchant, truth, processes)
    for pid in children(processes.leader("worker-settle")):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: unfinished(truth, ids) == 0, within=90, what="the end of all payments")
    assert settlements(truth, ids) == SLOW
    assert attempts(truth, ids, "code = 'worker_lost'") > 0, "the processes died with calls in progress"


def test_a_stopped_worker_finishes_its_slow_calls(merchant: Client, truth: Truth, processes: Processes) -> None:
    ids = slow_calls_in_progress(merchant, truth, processes)
    with processes.down("worker-settle", signal.SIGTERM):
        eventually(lambda: not attempts(truth, ids, "outcome IS NULL"), within=30, what="the end of the calls")
        assert attempts(truth, ids, "outcome = 'approved'") >= SLOW // 3
    eventually(lambda: unfinished(truth, ids) == 0, within=60, what="the end of the other payments")
    assert settlements(truth, ids) == SLOW
    assert attempts(truth, ids, "code = 'worker_lost'") == 0
