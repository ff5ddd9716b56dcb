"""Runs of the reconciliation: discrepancies, alerts, periods, limits, and runs that die."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gateway.config import settings
from gateway.db import begin, engine
from gateway.domain.reconciliation.runs import ADVISORY_LOCK, ReconciliationRunning
from gateway.errors import ValidationFailed
from gateway.flows import routing
from gateway.flows.reconciliation import ReconciliationCanceled, reconcile
from gateway.flows.settlement import settle
from gateway.ids import utc_now
from tests.helpers.discrepancies import discrepancies, only_discrepancy, settled_payment
from tests.helpers.factories import accept_payment, count, execute, make_merchant
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")

MEMORY_GROWTH_MAX_BYTES = 5_000_000


def test_the_same_discrepancy_keeps_its_row_in_the_next_run() -> None:
    id = settled_payment()
    execute("UPDATE transactions SET amount = 1005 WHERE id = :id", id=id)
    first = reconcile()
    before = only_discrepancy(first)
    second = reconcile()
    after = only_discrepancy(second)
    assert after["id"] == before["id"]
    assert (after["first_run_id"], after["first_seen_at"]) == (str(first.id), before["first_seen_at"])
    assert after["last_seen_at"] > before["last_seen_at"]
    assert (first.counts["new"], first.counts["known"]) == (1, 0)
    assert (second.counts["new"], second.counts["known"]) == (0, 1)
    assert count("discrepancies") == 1
    assert discrepancies(first) == []


def test_a_resolved_discrepancy_stays_resolved_until_it_changes() -> None:
    id = settled_payment()
    execute("UPDATE transactions SET amount = 1005 WHERE id = :id", id=id)
    reconcile()
    execute("UPDATE discrepancies SET status = 'resolved', resolved_at = now()")
    unchanged = reconcile()
    assert (unchanged.discrepancies, unchanged.counts["resolved"]) == ({}, 1)
    assert count("alerts") == 1
    execute("UPDATE transactions SET amount = 1006 WHERE id = :id", id=id)
    assert reconcile().discrepancies == {"amount_mismatch": 1}
    assert count("alerts") == 2


def test_a_run_with_discrepancies_raises_one_alert() -> None:
    for _ in range(3):
        settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    execute("DELETE FROM ledger_entries WHERE account = 'fees'")
    run = reconcile()
    with begin() as connection:
        alert = connection.execute(text("SELECT * FROM alerts")).one()
    assert (alert.severity, alert.message) == ("error", "Reconciliation found 6 discrepancies")
    assert alert.details["run_id"] == str(run.id)
    assert alert.details["counts"] == {"amount_mismatch": 3, "ledger_imbalance": 3}
    assert (alert.details["new"], alert.details["known"]) == (6, 0)
    assert count("outbox", "topic = 'alert.raised'") == 1


def test_a_period_includes_its_beginning_and_excludes_its_end() -> None:
    settled_payment()
    execute("UPDATE transactions SET amount = 1005, completed_at = '2026-03-02T00:00:00Z'")
    execute("UPDATE settlements SET settled_at = '2026-03-02T00:00:00Z'")
    execute("UPDATE ledger_entries SET posted_at = '2026-03-02T00:00:00Z'")
    at = utc_now().replace(year=2026, month=3, day=2, hour=0, minute=0, second=0, microsecond=0)
    day, moment = timedelta(days=1), timedelta(microseconds=1)
    assert reconcile(at, at + day).counts["discrepancies"]["amount_mismatch"] == 1
    assert reconcile(at - day, at + moment).counts["transactions"] == 1
    for outside in (reconcile(at - day, at), reconcile(at + moment, at + day)):
        assert (outside.compared, outside.discrepancies) == (0, {})


def test_a_pair_is_compared_when_either_side_is_in_the_period() -> None:
    settled_payment()
    execute("UPDATE transactions SET completed_at = '2026-03-01T23:59:59Z'")
    execute("UPDATE settlements SET settled_at = '2026-03-02T00:00:01Z'")
    at = utc_now().replace(year=2026, month=3, day=2, hour=0, minute=0, second=0, microsecond=0)
    day = timedelta(days=1)
    assert reconcile(at - day, at).discrepancies == {}
    assert reconcile(at, at + day).discrepancies == {}
    execute("UPDATE transactions SET amount = 1005")
    assert reconcile(at - day, at).discrepancies == {"amount_mismatch": 1}
    assert reconcile(at, at + day).discrepancies == {"amount_mismatch": 1}


def test_a_period_that_ends_before_it_begins_is_rejected() -> None:
    now = utc_now()
    with pytest.raises(ValidationFailed):
        reconcile(now, now)
    assert count("reconciliation_runs") == 0


def test_a_run_during_payments_finds_nothing() -> None:
    merchant_id, stop = make_merchant(), threading.Event()

    def pay() -> int:
        settled = 0
        while not stop.is_set():
            ids = [accept_payment(merchant_id, "tok_approve") for _ in range(5)]
            routing.route(ids)
            settled += len(settle(ids, "task-1").completed)
        return settled

    with ThreadPoolExecutor(3) as payers:
        live = [payers.submit(pay) for _ in range(3)]
        try:
            runs = [reconcile() for _ in range(40)]
        finally:
            stop.set()
        settled = sum(call.result() for call in live)
    assert [run.discrepancies for run in runs] == [{}] * len(runs)
    assert all(run.counts["transactions"] == run.counts["settlements"] for run in runs)
    assert all(sums["transactions"] == sums["ledger_debits"] for run in runs for sums in run.totals.values())
    assert 0 < runs[-1].counts["transactions"] <= settled


def test_only_one_reconciliation_runs_at_a_time() -> None:
    with begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        with pytest.raises(ReconciliationRunning, match="is running"):
            reconcile()
    assert count("reconciliation_runs") == 0
    assert reconcile().status == "completed"


def test_a_run_whose_process_is_killed_stores_nothing_and_the_next_one_closes_it() -> None:
    settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    with storing_takes(60):
        command = [sys.executable, "-c", "from gateway.flows.reconciliation import reconcile; reconcile()"]
        with subprocess.Popen(command) as run:
            eventually(backends_that_store, what="that the run gets as far as storing")
            run.kill()
        eventually(lambda: not backends_that_store(), what="that PostgreSQL notices the death")
    assert (count("discrepancies"), count("alerts"), count("outbox", "topic = 'alert.raised'")) == (0, 0, 0)
    assert count("reconciliation_runs", "status <> 'running'") == 0
    assert reconcile().discrepancies == {"amount_mismatch": 1}
    assert count("reconciliation_runs", "status = 'failed' AND error = 'Its process ended before the run.'") == 1


def test_a_run_that_postgresql_cancels_is_failed_with_the_reason() -> None:
    settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    with storing_takes(60), ThreadPoolExecutor(1) as thread:
        canceled = thread.submit(reconcile)
        eventually(lambda: backends_that_store("pg_cancel_backend(pid)"), what="that the run gets as far as storing")
        assert isinstance(canceled.exception(timeout=15), ReconciliationCanceled)
    assert count("discrepancies") == 0
    assert count("reconciliation_runs", "status = 'failed' AND error LIKE 'canceling statement%'") == 1


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limit statements to one second."""
    monkeypatch.setenv("DATABASE_TIMEOUT_SECONDS", "1")
    forget_settings()
    yield
    monkeypatch.undo()
    forget_settings()


def forget_settings() -> None:
    """Read the settings again, also for new connections."""
    settings.cache_clear()
    engine().dispose()
    engine.cache_clear()


@pytest.mark.usefixtures("short_timeout")
def test_a_run_may_take_longer_than_other_statements() -> None:
    settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    with storing_takes(2.2):
        assert reconcile().discrepancies == {"amount_mismatch": 1}


@pytest.mark.usefixtures("short_timeout")
def test_a_run_may_not_take_longer_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILIATION_TIMEOUT_SECONDS", "2")
    settings.cache_clear()
    settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    with storing_takes(60), pytest.raises(ReconciliationCanceled, match="RECONCILIATION_TIMEOUT_SECONDS is 2"):
        reconcile()
    assert count("discrepancies") == 0


@contextmanager
def storing_takes(seconds: float) -> Iterator[None]:
    """Slow down the storing of discrepancies within the block."""
    execute(
        f"""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END'"""
    )
    execute("CREATE TRIGGER slow BEFORE INSERT ON discrepancies EXECUTE FUNCTION slow()")
    try:
        yield
    finally:
        execute("DROP TRIGGER slow ON discrepancies")
        execute("DROP FUNCTION slow")


def backends_that_store(action: str = "pid") -> list[Any]:
    """Return the result of `action` for each database process that is storing discrepancies."""
    query = f"SELECT {action} FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"  # noqa: S608
    with begin() as connection:
        return list(connection.scalars(text(query)))


def test_thousands_of_discrepancies_need_no_memory_of_this_process() -> None:
    merchant_id = make_merchant()
    execute(
        """INSERT INTO transactions (id, merchant_id, amount, currency, status, payment_method, provider,
                                     provider_reference, attempt_limit, request_id, created_at, updated_at,
                                     completed_at)
           SELECT gen_random_uuid(), :merchant_id, 100, 'USD', 'completed', 'tok_approve', 'simulated', 'r' || i, 4,
                  'r', now(), now(), now()
           FROM generate_series(1, 20000) i""",
        merchant_id=merchant_id,
    )
    reconcile()
    before = resident_bytes()
    run = reconcile()
    assert run.discrepancies == {"missing_settlement": 20_000}
    assert resident_bytes() - before < MEMORY_GROWTH_MAX_BYTES


def resident_bytes() -> int:
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
