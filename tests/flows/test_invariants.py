"""Checks of the invariants during payments, their alerts, metrics and command."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery.schedules import schedule
from flask import Flask
from sqlalchemy import text

import celeryconfig
from gateway.app import create_app
from gateway.db import begin
from gateway.domain.dead_letters import resolution
from gateway.domain.invariants import checks as invariant_checks
from gateway.domain.invariants.checks import INVARIANTS
from gateway.flows import settlement
from gateway.flows.invariants import check
from tasks import app as celery
from tasks.upkeep import check_invariants
from tests.helpers.factories import count, execute, make_merchant, route_payments
from tests.helpers.lifecycles import ACTOR, completed, dead_lettered, one_in_each_state, replayed

pytestmark = pytest.mark.usefixtures("database")

ROOT = Path(__file__).parents[2]
OVERCHARGE = "UPDATE charge_attempts SET outcome = 'declined' WHERE transaction_id = :id"
REPAIR = "UPDATE charge_attempts SET outcome = 'approved' WHERE transaction_id = :id"
NAME = "settled_have_an_approved_attempt"


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app()


def broken_payment() -> UUID:
    """Return a completed transaction whose attempt was declined, which breaks exactly one invariant."""
    id = completed(make_merchant())
    execute(OVERCHARGE, id=id)
    return id


def alerts() -> list[dict[str, Any]]:
    with begin() as connection:
        query = text("SELECT severity, message, details FROM alerts WHERE details ->> 'kind' = 'invariant' ORDER BY id")
        return [dict(row) for row in connection.execute(query).mappings()]


@contextmanager
def locked(table: str) -> Iterator[None]:
    """Lock the table within the block, so that nobody else can read it."""
    with begin() as connection:
        connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        yield


def test_payments_during_checks_raise_no_false_alert() -> None:
    def live(merchant_id: UUID) -> None:
        tokens = ("tok_approve", "tok_decline_fraud", "tok_error_once", "tok_timeout_charged")
        for number in range(12):
            ids = route_payments(merchant_id, *tokens)
            for _ in range(3):
                settlement.settle(ids, f"task-{number}")
            _, letter_id = dead_lettered(merchant_id)
            with begin() as connection:
                resolution.discard(connection, letter_id, ACTOR, None)
            id = replayed(merchant_id)
            execute("UPDATE transactions SET payment_method = 'tok_approve' WHERE id = :id", id=id)
            settlement.settle([id], "task-replay")

    checks = 0
    with ThreadPoolExecutor(3) as pool:
        lives = [pool.submit(live, make_merchant()) for _ in range(3)]
        while not all(life.done() for life in lives):
            assert check(full=checks % 2 == 1).broken == []
            checks += 1
    for life in lives:
        life.result()
    assert checks > 5
    assert count("settlements") == 3 * 12 * 4
    assert check(full=True).broken == []


def test_a_broken_invariant_raises_one_alert_per_episode() -> None:
    id = broken_payment()
    check()
    check(full=True)
    check()
    [alert] = alerts()
    assert (alert["severity"], alert["details"]["invariant"], alert["details"]["count"]) == ("critical", NAME, 1)
    assert alert["details"]["sample_ids"] == [str(id)]
    assert "Ask the provider" in alert["details"]["what_to_do"]
    assert NAME in alert["message"]
    execute(REPAIR, id=id)
    assert check().broken == []
    assert count("invariant_checks", "broken_since IS NOT NULL OR alerted_at IS NOT NULL") == 0
    execute(OVERCHARGE, id=id)
    check()
    assert len(alerts()) == 2


def test_an_invariant_that_stays_broken_raises_one_alert_per_hour() -> None:
    broken_payment()
    check()
    execute("UPDATE invariant_checks SET alerted_at = now() - interval '59 minutes' WHERE violations > 0")
    check()
    assert len(alerts()) == 1
    execute("UPDATE invariant_checks SET alerted_at = now() - interval '61 minutes' WHERE violations > 0")
    check()
    check()
    assert len(alerts()) == 2


def test_each_broken_invariant_raises_a_separate_alert() -> None:
    ids = one_in_each_state()
    execute(OVERCHARGE, id=ids["completed"])
    execute("DELETE FROM dead_letters WHERE transaction_id = :id", id=ids["dead_lettered"])
    check()
    assert {alert["details"]["invariant"] for alert in alerts()} == {NAME, "dead_lettered_have_one_open_dead_letter"}


def test_concurrent_checks_raise_one_alert() -> None:
    broken_payment()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(check) for _ in range(8)]:
            done.result()
    assert len(alerts()) == 1


def test_stuck_work_raises_an_alert_only_if_a_sweep_has_left_it() -> None:
    route_payments(make_merchant(), "tok_approve")
    execute("DELETE FROM outbox")
    execute("UPDATE transactions SET updated_at = now() - interval '1 hour'")
    assert len(check().broken) == 1
    check()
    assert alerts() == []
    execute("UPDATE invariant_checks SET broken_since = now() - interval '46 seconds' WHERE violations > 0")
    check()
    assert [alert["details"]["metric"] for alert in alerts()] == ["payments_unaccounted"]


def test_a_late_result_does_not_overwrite_a_newer_one() -> None:
    id = broken_payment()
    with begin() as connection:
        late = invariant_checks.evaluate(connection, full=True, horizon_seconds=400, limit_seconds=10)
    execute(REPAIR, id=id)
    check()
    with begin() as connection:
        assert invariant_checks.record(connection, late, grace_seconds=0) == []
    assert (alerts(), count("invariant_checks", "violations > 0")) == ([], 0)


def test_the_scheduled_task_checks_and_logs_a_warning_if_it_cannot() -> None:
    with locked("ledger_entries"):
        check_invariants()
    assert count("invariant_checks") == 0
    check_invariants()
    assert count("invariant_checks") == len(INVARIANTS)
    entry = celeryconfig.beat_schedule["check_invariants"]
    assert entry["task"] in celery.tasks
    assert entry["schedule"] == schedule(60)


def test_the_metrics_show_the_findings_and_the_age_of_the_last_check(app: Flask) -> None:
    assert "payments_unaccounted" not in app.test_client().get("/metrics").text  # never checked
    ids = one_in_each_state()
    execute("DELETE FROM dead_letters WHERE transaction_id = :id", id=ids["dead_lettered"])
    execute("DELETE FROM ledger_entries WHERE transaction_id = :id AND account = 'fees'", id=ids["completed"])
    check()
    execute("UPDATE invariant_checks SET checked_at = now() - interval '90 seconds'")
    lines = app.test_client().get("/metrics").text.splitlines()
    shown = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert (shown["payments_unaccounted"], shown["ledger_imbalance"]) == ("1.0", "3.0")
    assert shown['invariant_violations{invariant="settlements_have_their_entries"}'] == "1.0"
    assert 90 <= float(shown["invariants_age_seconds"]) < 120


def test_the_command_succeeds_when_everything_holds(app: Flask) -> None:
    one_in_each_state()
    result = app.test_cli_runner().invoke(args=["invariants"])
    assert (result.exit_code, result.output.count("holds")) == (0, len(INVARIANTS))


def test_the_command_fails_with_the_ids_when_one_is_broken(app: Flask) -> None:
    id = broken_payment()
    for options in ([], ["--recent"]):
        result = app.test_cli_runner().invoke(args=["invariants", *options])
        assert (result.exit_code, str(id) in result.stdout) == (1, True)
    result = app.test_cli_runner().invoke(args=["invariants", "--recent", "--json"])
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert (shown["holds"], shown["since"] is None) == (False, False)
    assert {row["name"]: row["violations"] for row in shown["invariants"] if row["violations"]} == {NAME: 1}
    assert len(shown["invariants"]) == len(INVARIANTS)


def test_the_command_reports_that_the_database_is_unavailable(app: Flask) -> None:
    with locked("settlements"):
        result = app.test_cli_runner().invoke(args=["invariants"])
    assert (result.exit_code, "The database is unavailable" in result.output) == (75, True)
    env = os.environ | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    command = [sys.executable, "-m", "flask", "--app", "gateway.app", "invariants"]
    away = subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert (away.returncode, "The database is unavailable" in away.stderr) == (75, True)
    assert "Traceback" not in away.stderr


def test_the_command_explains_itself(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["invariants", "--help"])
    assert result.exit_code == 0
    assert all(word in result.output for word in ("--recent", "--json", "Exit status: 0", "75 if"))
