"""Check that the responses to clients, the gateway's data and the acquirer's charges agree."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import requests

from tests.chaos.load import ClientLog
from tests.chaos.stack import ChaosStack

DRAIN_SECONDS = 240
POLL_SECONDS = 1.0
ALWAYS_DEAD = frozenset({"tok_error_always"})
ENDED = frozenset({"completed", "partially_refunded", "refunded", "failed"})
PAGE_SECONDS = 30
CHECK_SECONDS = 120
CHECKS = ("invariants", "reconcile", "balances")
"""Commands of operators that must find nothing (`flask invariants` and so on)."""


@dataclass(slots=True)
class Verdict:
    """All results; `failures` are broken promises."""

    lost: list[UUID] = field(default_factory=list)
    settled_twice: list[UUID] = field(default_factory=list)
    charged_twice: list[str] = field(default_factory=list)
    charged_not_settled: list[str] = field(default_factory=list)
    settled_not_charged: list[str] = field(default_factory=list)
    dead_expected: int = 0
    dead_unexpected: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    drain_seconds: float = 0.0
    figures: list[tuple[str, object]] = field(default_factory=list)
    """More lines of the table."""
    failures: list[str] = field(default_factory=list)

    def expect_none(self, what: str, found: Sequence[object]) -> None:
        """Add a line to the table; it is a broken promise unless it is 0."""
        self.figures.append((what, len(found)))
        if found:
            self.failures.append(f"{what}: {', '.join(map(str, found[:10]))}")


def drain(stack: ChaosStack) -> float:
    """Wait until every payment and refund is finished, every queue empty, and every event attempted twice.

    Return the duration in seconds. A delivery that failed twice waits for five minutes, which is too long for this run.

    Raises:
        TimeoutError: it takes longer than `DRAIN_SECONDS`.
    """
    began = time.monotonic()
    left: object = None
    while time.monotonic() - began < DRAIN_SECONDS:
        try:
            left = _left(stack)
        except (psycopg.Error, requests.RequestException) as exc:
            left = exc
        if left == {}:
            return time.monotonic() - began
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"not drained after {DRAIN_SECONDS} s: {left!r}")


def _left(stack: ChaosStack) -> dict[str, int]:
    with stack.database() as connection:
        counts = connection.execute(
            "SELECT status, count(*) FROM transactions WHERE status IN ('pending', 'processing') GROUP BY status"
            " UNION ALL SELECT 'outbox', count(*) FROM outbox"
            " UNION ALL SELECT 'refunds', count(*) FROM refunds WHERE status = 'pending'"
            " UNION ALL SELECT 'deliveries', count(*) FROM webhook_deliveries"
            "           WHERE status = 'pending' AND (attempts < 2 OR next_attempt_at <= now())"
        ).fetchall()
    queues = {
        queue["name"]: queue.get("messages", 1)
        for queue in stack.management("GET", "queues").json()
        if not queue["name"].startswith(("celery_delayed_", "celeryev", "celery@")) and "pidbox" not in queue["name"]
    }
    return {name: number for name, number in [*counts, *queues.items()] if number}


def check(stack: ChaosStack, log: ClientLog) -> Verdict:
    """Check all payments; call this after `drain`."""
    verdict = Verdict()
    with stack.database() as connection:
        rows = connection.execute("SELECT id, status, payment_method, amount FROM transactions").fetchall()
        letters = {
            row[0]
            for row in connection.execute(
                "SELECT transaction_id FROM dead_letters WHERE status = 'open' AND refund_id IS NULL"
            )
        }
        settlements = connection.execute("SELECT transaction_id, amount FROM settlements").fetchall()
    status_of = {row[0]: row[1] for row in rows}
    verdict.statuses = Counter(status_of.values())
    for id in log.accepted:
        status = status_of.get(id)
        known_canceled = status == "canceled" and log.cancels.total() > 0
        if not (status in ENDED or known_canceled or (status == "dead_lettered" and id in letters)):
            verdict.lost.append(id)
    for id, status, token, _ in rows:
        if status == "dead_lettered" or id in letters:
            verdict.dead_expected += token in ALWAYS_DEAD
            verdict.dead_unexpected += token not in ALWAYS_DEAD
    times = Counter(row[0] for row in settlements)
    verdict.settled_twice = [id for id, number in times.items() if number > 1]
    _compare_with_acquirer(stack, verdict, {str(id): amount for id, amount in settlements}, status_of)
    _check_processes_and_commands(stack, verdict)
    for name in ("lost", "settled_twice", "charged_twice", "settled_not_charged", "charged_not_settled"):
        found = getattr(verdict, name)
        if found:
            verdict.failures.append(f"{name.replace('_', ' ')}: {', '.join(map(str, found[:10]))}")
    verdict.failures += log.problems[:10]
    return verdict


def at_acquirer(stack: ChaosStack, what: str) -> list[dict[str, Any]]:
    """Return all charges or refunds of the acquirer."""
    response = requests.get(f"{stack.acquirer_url}/{what}", timeout=PAGE_SECONDS)
    response.raise_for_status()
    return [json.loads(line) for line in response.text.splitlines() if line]


def _compare_with_acquirer(
    stack: ChaosStack, verdict: Verdict, settled: dict[str, int], status_of: dict[UUID, str]
) -> None:
    """Check that the acquirer's approved charges correspond to the gateway's settlements one to one.

    A charge whose transaction has an open dead letter is not lost: a replay finds it.
    """
    approved = [charge for charge in at_acquirer(stack, "charges") if charge["status"] == "approved"]
    times = Counter(str(charge["idempotency_key"]) for charge in approved)
    verdict.charged_twice = [key for key, number in times.items() if number > 1]
    amounts = {str(charge["idempotency_key"]): charge["amount"] for charge in approved}
    waiting = {str(id) for id, status in status_of.items() if status == "dead_lettered"}
    verdict.charged_not_settled = [key for key in amounts.keys() - settled.keys() if key not in waiting]
    verdict.settled_not_charged = [id for id in settled if amounts.get(id) != settled[id]]


def _check_processes_and_commands(stack: ChaosStack, verdict: Verdict) -> None:
    dead = stack.dead()
    if dead:
        verdict.failures.append(f"processes that are not running: {', '.join(dead)}")
    for check in CHECKS:
        command = [sys.executable, "-m", "flask", "--app", "gateway.app", check]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=CHECK_SECONDS)
        if result.returncode != 0:
            found = f"{result.stdout}{result.stderr}"
            verdict.failures.append(f"flask {check} exited with {result.returncode}: {found}")
