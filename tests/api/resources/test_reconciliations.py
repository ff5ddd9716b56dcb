"""Request, list and retrieve reconciliations."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.api.http.schemas import page_of
from gateway.api.resources.reconciliations import Reconciliation
from gateway.db import begin
from gateway.domain.reconciliation import requests as reconciliation_requests
from gateway.domain.reconciliation import runs as reconciliation_runs
from gateway.domain.reconciliation.runs import ADVISORY_LOCK, ReconciliationRunning
from gateway.flows import upkeep
from gateway.flows.reconciliation import reconcile, reconcile_as_requested
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.api.reconciliations import RUNS, ask, carried_out, damaged_payment, found_by
from tests.helpers.factories import count, execute


def test_a_reconciliation_can_be_followed_from_its_request_on(operator: Caller) -> None:
    payment = damaged_payment()

    run = ask(operator)
    assert (run["status"], run["started_at"], run["provider"]) == ("pending", None, None)
    assert run["requested_by"].startswith("user:")
    assert count("outbox", f"topic = 'reconciliation.requested' AND subject_id = '{run['id']}'") == 1
    assert count("audit_log", "action = 'reconciliation.requested'") == 1
    reconcile_as_requested(UUID(run["id"]))

    done = operator.get(f"{RUNS}/{run['id']}").json
    assert (done["status"], done["counts"]["transactions"], done["counts"]["new"]) == ("completed", 1, 1)
    assert done["counts"]["discrepancies"]["amount_mismatch"] == 1
    assert done["totals"]["USD"]["transactions"] == 1005
    [found] = found_by(operator, run)
    assert (found["kind"], found["transaction_id"], found["status"]) == ("amount_mismatch", str(payment), "open")
    assert (found["expected_amount"], found["actual_amount"]) == (1005, 1000)


def test_a_reconciliation_of_one_provider_ignores_the_others(operator: Caller) -> None:
    damaged_payment()

    other = carried_out(operator, provider="sandbox")
    same = carried_out(operator, provider="simulated")

    assert (other["counts"]["transactions"], found_by(operator, other), other["totals"]) == (0, [], {})
    assert other["counts"]["ledger_entries"] == 0
    assert (same["counts"]["transactions"], same["counts"]["ledger_entries"]) == (1, 3)
    assert len(found_by(operator, same)) == 1


def test_a_duplicate_message_does_not_change_a_completed_reconciliation(operator: Caller) -> None:
    done = carried_out(operator)
    damaged_payment()

    reconcile_as_requested(UUID(done["id"]))

    assert operator.get(f"{RUNS}/{done['id']}").json == done


def test_a_reconciliation_waits_while_another_one_is_running(operator: Caller) -> None:
    run = ask(operator)
    with begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        with pytest.raises(ReconciliationRunning):
            reconcile_as_requested(UUID(run["id"]))
    assert operator.get(f"{RUNS}/{run['id']}").json["status"] == "pending"

    reconcile_as_requested(UUID(run["id"]))

    assert operator.get(f"{RUNS}/{run['id']}").json["status"] == "completed"


def test_a_reconciliation_that_another_one_overtook_waits_again(operator: Caller) -> None:
    run = ask(operator)
    with begin() as connection:
        assert reconciliation_runs.start(connection, UUID(run["id"]))
    reconcile()
    assert operator.get(f"{RUNS}/{run['id']}").json["status"] == "failed"

    with begin() as connection:
        reconciliation_runs.postpone(connection, UUID(run["id"]))

    again = operator.get(f"{RUNS}/{run['id']}").json
    assert (again["status"], again["error"], again["finished_at"]) == ("pending", None, None)
    reconcile_as_requested(UUID(run["id"]))
    assert operator.get(f"{RUNS}/{run['id']}").json["status"] == "completed"


def test_a_reconciliation_whose_worker_died_is_completed_by_the_next_message(operator: Caller) -> None:
    run = ask(operator)
    execute("UPDATE reconciliation_runs SET status = 'running', started_at = now() - interval '1 hour'")
    execute("UPDATE reconciliation_runs SET enqueued_at = now() - interval '1 hour'")
    execute("DELETE FROM outbox")

    assert upkeep.requeue_operator_work() == 1
    assert upkeep.requeue_operator_work() == 0
    assert count("outbox", "topic = 'reconciliation.requested'") == 1
    reconcile_as_requested(UUID(run["id"]))

    assert operator.get(f"{RUNS}/{run['id']}").json["status"] == "completed"


def test_a_reconciliation_whose_message_was_lost_is_enqueued_again(operator: Caller) -> None:
    ask(operator)
    assert upkeep.requeue_operator_work() == 0
    execute("DELETE FROM outbox")
    execute("UPDATE reconciliation_runs SET enqueued_at = now() - interval '61 seconds'")

    assert upkeep.requeue_operator_work() == 1


def test_reconciliations_are_listed_in_pages_including_the_nightly_ones(operator: Caller) -> None:
    nightly = str(reconcile().id)
    made = [nightly, *(ask(operator)["id"] for _ in range(2))]

    first = operator.get(f"{RUNS}?limit=2")
    second = operator.get(f"{RUNS}?limit=2&cursor={first.json['next_cursor']}")

    for page in (first, second):
        page_of(Reconciliation).model_validate_json(page.data)
    runs = first.json["data"] + second.json["data"]
    assert [run["id"] for run in runs] == made[::-1]
    assert (runs[-1]["from"], runs[-1]["requested_by"]) == (None, None)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"from": "yesterday"}, "/from"),
        ({"from": None}, "/from"),
        ({"to": "2026-01-01T00:00:00Z", "from": "2026-01-01T00:00:00Z"}, "/to"),
        ({"to": "2998-01-01T00:00:00Z"}, "/to"),
        ({"provider": "nobody"}, "/provider"),
        ({"since": "2026-01-01T00:00:00Z"}, "/since"),
    ],
)
def test_an_invalid_period_is_rejected(operator: Caller, fields: dict[str, Any], pointer: str) -> None:
    body = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"} | fields
    response = operator.post(RUNS, body)

    assert response.status_code == 422, response.text
    assert list(field_errors(response)) == [pointer]
    assert count("reconciliation_runs") == 0


def test_the_number_of_unfinished_reconciliations_is_limited(operator: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation_requests, "RUNS_UNFINISHED_MAX", 2)
    first, _ = ask(operator), ask(operator)

    period = {"from": first["from"], "to": first["to"]}
    expect_problem(operator.post(RUNS, period), 409, "too_many_jobs")
    reconcile_as_requested(UUID(first["id"]))
    ask(operator)
