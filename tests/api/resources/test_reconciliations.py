"""Reconciliations that operators ask for, their discrepancies and their reports (api.md, Operators)."""

import csv
import io
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.api.resources import reconciliations
from gateway.api.resources.discrepancies import Discrepancy, DiscrepancyPage
from gateway.api.resources.reconciliations import REPORT_COLUMNS, Reconciliation, ReconciliationPage
from gateway.db import begin
from gateway.domain.reconciliation import requests as reconciliation_requests
from gateway.domain.reconciliation import runs as reconciliation_runs
from gateway.domain.reconciliation.runs import ADVISORY_LOCK, ReconciliationRunning
from gateway.flows import upkeep
from gateway.flows.reconciliation import reconcile, reconcile_as_requested
from gateway.ids import new_id, rfc3339, utc_now
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import count, execute

RUNS = "/v1/reconciliations"
FOUND = "/v1/discrepancies"


def ask(operator: Caller, **fields: Any) -> dict[str, Any]:
    now = utc_now()
    period = {"from": rfc3339(now - timedelta(days=1)), "to": rfc3339(now + timedelta(minutes=1))}
    answer = operator.post(RUNS, period | fields)
    assert answer.status_code == 202, answer.text
    Reconciliation.model_validate_json(answer.data)
    run: dict[str, Any] = answer.json
    assert answer.headers["Location"] == f"{RUNS}/{run['id']}"
    return run


def carried_out(operator: Caller, **fields: Any) -> dict[str, Any]:
    run = ask(operator, **fields)
    reconcile_as_requested(UUID(run["id"]))
    answer = operator.get(f"{RUNS}/{run['id']}")
    Reconciliation.model_validate_json(answer.data)
    done: dict[str, Any] = answer.json
    return done


def damaged_payment(amount: int = 1005) -> UUID:
    payment = settled_payment()
    execute("UPDATE transactions SET amount = :amount WHERE id = :id", id=payment, amount=amount)
    return payment


def found_by(operator: Caller, run: dict[str, Any], query: str = "") -> list[dict[str, Any]]:
    answer = operator.get(f"{RUNS}/{run['id']}/discrepancies{query}")
    assert answer.status_code == 200, answer.text
    DiscrepancyPage.model_validate_json(answer.data)
    data: list[dict[str, Any]] = answer.json["data"]
    return data


def test_a_run_can_be_followed_from_the_moment_it_is_asked_for(operator: Caller) -> None:
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


def test_a_run_of_one_provider_compares_nothing_of_the_others(operator: Caller) -> None:
    damaged_payment()

    other = carried_out(operator, provider="sandbox")
    same = carried_out(operator, provider="simulated")

    assert (other["counts"]["transactions"], found_by(operator, other), other["totals"]) == (0, [], {})
    assert other["counts"]["ledger_entries"] == 0
    assert (same["counts"]["transactions"], same["counts"]["ledger_entries"]) == (1, 3)
    assert len(found_by(operator, same)) == 1


def test_a_run_that_is_done_stays_as_it_is_when_its_message_comes_again(operator: Caller) -> None:
    done = carried_out(operator)
    damaged_payment()

    reconcile_as_requested(UUID(done["id"]))

    assert operator.get(f"{RUNS}/{done['id']}").json == done


def test_a_run_waits_while_another_one_is_under_way(operator: Caller) -> None:
    run = ask(operator)
    with begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        with pytest.raises(ReconciliationRunning):
            reconcile_as_requested(UUID(run["id"]))
    assert operator.get(f"{RUNS}/{run['id']}").json["status"] == "pending"

    reconcile_as_requested(UUID(run["id"]))

    assert operator.get(f"{RUNS}/{run['id']}").json["status"] == "completed"


def test_a_run_that_another_one_overtook_between_beginning_and_comparing_waits_again(operator: Caller) -> None:
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


def test_a_run_whose_worker_died_is_carried_out_by_the_next_message(operator: Caller) -> None:
    run = ask(operator)
    execute("UPDATE reconciliation_runs SET status = 'running', started_at = now() - interval '1 hour'")
    execute("UPDATE reconciliation_runs SET enqueued_at = now() - interval '1 hour'")
    execute("DELETE FROM outbox")

    assert upkeep.requeue_operator_work() == 1
    assert upkeep.requeue_operator_work() == 0
    assert count("outbox", "topic = 'reconciliation.requested'") == 1
    reconcile_as_requested(UUID(run["id"]))

    assert operator.get(f"{RUNS}/{run['id']}").json["status"] == "completed"


def test_a_run_that_waits_too_long_for_its_message_is_enqueued_again(operator: Caller) -> None:
    ask(operator)
    assert upkeep.requeue_operator_work() == 0
    execute("DELETE FROM outbox")
    execute("UPDATE reconciliation_runs SET enqueued_at = now() - interval '61 seconds'")

    assert upkeep.requeue_operator_work() == 1


def test_runs_are_listed_with_the_nightly_ones_in_pages(operator: Caller) -> None:
    nightly = str(reconcile().id)
    made = [nightly, *(ask(operator)["id"] for _ in range(2))]

    first = operator.get(f"{RUNS}?limit=2")
    second = operator.get(f"{RUNS}?limit=2&cursor={first.json['next_cursor']}")

    for page in (first, second):
        ReconciliationPage.model_validate_json(page.data)
    runs = first.json["data"] + second.json["data"]
    assert [run["id"] for run in runs] == made[::-1]
    assert (runs[-1]["from"], runs[-1]["requested_by"]) == (None, None)


def test_each_run_keeps_what_it_found_though_later_ones_find_it_too(operator: Caller) -> None:
    damaged_payment()
    first = carried_out(operator)
    damaged_payment()

    second = carried_out(operator)

    assert (len(found_by(operator, first)), len(found_by(operator, second))) == (1, 2)
    assert found_by(operator, second, "?limit=1&kind=amount_mismatch")[0]["first_run_id"] == second["id"]


def test_each_filter_of_discrepancies_finds_what_it_says(operator: Caller) -> None:
    first, second = damaged_payment(), settled_payment()
    execute("DELETE FROM ledger_entries WHERE transaction_id = :id", id=second)
    run = carried_out(operator)
    [mismatch] = found_by(operator, run, "?kind=amount_mismatch")
    operator.post(f"{FOUND}/{mismatch['id']}/resolve", {"resolution": "accepted"})

    for query, found in (
        ("?status=resolved", {str(first)}),
        ("?status=open", {str(second)}),
        ("?kind=ledger_imbalance", {str(second)}),
        ("?kind=missing_settlement", set()),
        (f"?transaction_id={first}", {str(first)}),
    ):
        assert {row["transaction_id"] for row in found_by(operator, run, query)} == found, query
        assert {row["transaction_id"] for row in operator.get(f"{FOUND}{query}").json["data"]} == found, query


def test_a_discrepancy_is_resolved_once_and_with_an_audit_entry(operator: Caller) -> None:
    damaged_payment()
    [found] = found_by(operator, carried_out(operator))

    answer = operator.post(f"{FOUND}/{found['id']}/resolve", {"resolution": "corrected", "note": "Refunded by hand."})

    assert answer.status_code == 200, answer.text
    Discrepancy.model_validate_json(answer.data)
    resolved = answer.json
    assert (resolved["status"], resolved["resolution"], resolved["note"]) == (
        "resolved", "corrected", "Refunded by hand.",
    )  # fmt: skip
    assert resolved["resolved_by"].startswith("user:")
    assert operator.get(f"{FOUND}/{found['id']}").json == resolved
    [entry] = operator.get(f"/v1/audit-log?subject={found['id']}").json["data"]
    assert (entry["action"], entry["detail"]["resolution"]) == ("discrepancy.resolved", "corrected")
    again = operator.post(f"{FOUND}/{found['id']}/resolve", {"resolution": "other"})
    expect_problem(again, 409, "already_resolved")
    assert count("audit_log", "action = 'discrepancy.resolved'") == 1


def test_a_resolved_discrepancy_that_changes_is_open_again_without_its_resolution(operator: Caller) -> None:
    payment = damaged_payment()
    [found] = found_by(operator, carried_out(operator))
    operator.post(f"{FOUND}/{found['id']}/resolve", {"resolution": "accepted", "note": "small"})
    carried_out(operator)
    assert operator.get(f"{FOUND}/{found['id']}").json["note"] == "small"

    execute("UPDATE transactions SET amount = 1006 WHERE id = :id", id=payment)
    carried_out(operator)

    changed = operator.get(f"{FOUND}/{found['id']}").json
    assert (changed["status"], changed["resolution"], changed["note"], changed["resolved_at"]) == (
        "open", None, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "/resolution"), ({"resolution": "ignored"}, "/resolution"), ({"resolution": "other", "note": 7}, "/note")],
)
def test_a_resolution_that_is_not_valid_is_refused(operator: Caller, body: dict[str, Any], pointer: str) -> None:
    answer = operator.post(f"{FOUND}/{new_id()}/resolve", body)

    expect_problem(answer, 422, "validation_failed")
    assert list(field_errors(answer)) == [pointer]


def test_the_report_is_csv_with_every_discrepancy(operator: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliations, "REPORT_PAGE", 2)
    payments = {str(damaged_payment()) for _ in range(5)}
    run = carried_out(operator)

    answer = operator.get(f"{RUNS}/{run['id']}/report.csv")

    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="reconciliation-{run["id"]}.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {row["transaction_id"] for row in rows} == payments
    assert len(rows) == 5
    assert tuple(rows[0]) == REPORT_COLUMNS
    assert (rows[0]["expected_amount"], rows[0]["settlement_id"] != "", rows[0]["note"]) == ("1005", True, "")


def test_a_report_is_made_page_by_page_and_announces_its_length(
    operator: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliations, "REPORT_PAGE", 1)
    monkeypatch.setattr(reconciliations, "REPORT_PIECE_BYTES", 100)
    for _ in range(2):
        damaged_payment()
    run = carried_out(operator)

    answer = operator.get(f"{RUNS}/{run['id']}/report.csv")
    pieces = [piece for piece in answer.response if isinstance(piece, bytes)]

    assert max(map(len, pieces)) == 100
    assert sum(map(len, pieces)) == answer.content_length
    assert b"".join(pieces).count(b"\r\n") == 3


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"])
def test_no_cell_of_a_report_is_a_formula(operator: Caller, evil: str) -> None:
    damaged_payment()
    run = carried_out(operator)
    [found] = found_by(operator, run)
    operator.post(f"{FOUND}/{found['id']}/resolve", {"resolution": "other", "note": evil})

    [row] = csv.DictReader(io.StringIO(operator.get(f"{RUNS}/{run['id']}/report.csv").text, newline=""))

    assert row["note"] == f"'{evil}"


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
def test_a_period_that_is_not_valid_is_refused(operator: Caller, fields: dict[str, Any], pointer: str) -> None:
    body = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"} | fields
    answer = operator.post(RUNS, body)

    assert answer.status_code == 422, answer.text
    assert list(field_errors(answer)) == [pointer]
    assert count("reconciliation_runs") == 0


def test_what_does_not_exist_is_not_found(operator: Caller) -> None:
    for path in (f"{RUNS}/{new_id()}", f"{RUNS}/{new_id()}/discrepancies", f"{RUNS}/{new_id()}/report.csv"):
        expect_problem(operator.get(path), 404, "not_found")
    expect_problem(operator.get(f"{FOUND}/{new_id()}"), 404, "not_found")
    expect_problem(operator.post(f"{FOUND}/{new_id()}/resolve", {"resolution": "other"}), 404, "not_found")


def test_merchants_have_no_part_in_it(merchant: Caller) -> None:
    body = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
    for answer in (
        merchant.post(RUNS, body),
        merchant.get(RUNS),
        merchant.get(f"{RUNS}/{new_id()}"),
        merchant.get(f"{RUNS}/{new_id()}/discrepancies"),
        merchant.get(f"{RUNS}/{new_id()}/report.csv"),
        merchant.get(FOUND),
        merchant.get(f"{FOUND}/{new_id()}"),
        merchant.post(f"{FOUND}/{new_id()}/resolve", {"resolution": "other"}),
    ):
        expect_problem(answer, 403, "insufficient_scope")


def test_a_bounded_number_of_reconciliations_is_unfinished_at_once(
    operator: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation_requests, "RUNS_UNFINISHED_MAX", 2)
    first, _ = ask(operator), ask(operator)

    period = {"from": first["from"], "to": first["to"]}
    expect_problem(operator.post(RUNS, period), 409, "too_many_jobs")
    reconcile_as_requested(UUID(first["id"]))
    ask(operator)
