"""List and resolve discrepancies, and download them as a report."""

import csv
import io
from typing import Any

import pytest

from gateway.api.resources import reconciliations
from gateway.api.resources.discrepancies import Discrepancy
from gateway.api.resources.reconciliations import REPORT_COLUMNS
from gateway.ids import new_id
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.api.reconciliations import FOUND, RUNS, carried_out, damaged_payment, found_by
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import count, execute


def test_each_reconciliation_lists_what_it_found(operator: Caller) -> None:
    damaged_payment()
    first = carried_out(operator)
    damaged_payment()

    second = carried_out(operator)

    assert (len(found_by(operator, first)), len(found_by(operator, second))) == (1, 2)
    assert found_by(operator, second, "?limit=1&kind=amount_mismatch")[0]["first_run_id"] == second["id"]


def test_each_filter_finds_the_matching_discrepancies(operator: Caller) -> None:
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


def test_a_discrepancy_is_resolved_once_with_an_audit_entry(operator: Caller) -> None:
    damaged_payment()
    [found] = found_by(operator, carried_out(operator))

    response = operator.post(
        f"{FOUND}/{found['id']}/resolve", {"resolution": "corrected", "note": "Refunded manually."}
    )

    assert response.status_code == 200, response.text
    Discrepancy.model_validate_json(response.data)
    resolved = response.json
    assert (resolved["status"], resolved["resolution"], resolved["note"]) == (
        "resolved", "corrected", "Refunded manually.",
    )  # fmt: skip
    assert resolved["resolved_by"].startswith("user:")
    assert operator.get(f"{FOUND}/{found['id']}").json == resolved
    [entry] = operator.get(f"/v1/audit-log?subject={found['id']}").json["data"]
    assert (entry["action"], entry["detail"]["resolution"]) == ("discrepancy.resolved", "corrected")
    again = operator.post(f"{FOUND}/{found['id']}/resolve", {"resolution": "other"})
    expect_problem(again, 409, "already_resolved")
    assert count("audit_log", "action = 'discrepancy.resolved'") == 1


def test_a_resolved_discrepancy_that_changes_is_open_again(operator: Caller) -> None:
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
def test_an_invalid_resolution_is_rejected(operator: Caller, body: dict[str, Any], pointer: str) -> None:
    response = operator.post(f"{FOUND}/{new_id()}/resolve", body)

    expect_problem(response, 422, "validation_failed")
    assert list(field_errors(response)) == [pointer]


def test_the_report_contains_every_discrepancy_as_csv(operator: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliations, "REPORT_PAGE", 2)
    payments = {str(damaged_payment()) for _ in range(5)}
    run = carried_out(operator)

    response = operator.get(f"{RUNS}/{run['id']}/report.csv")

    assert response.content_type == "text/csv; charset=utf-8"
    assert response.headers["Content-Disposition"] == f'attachment; filename="reconciliation-{run["id"]}.csv"'
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert {row["transaction_id"] for row in rows} == payments
    assert len(rows) == 5
    assert tuple(rows[0]) == REPORT_COLUMNS
    assert (rows[0]["expected_amount"], rows[0]["settlement_id"] != "", rows[0]["note"]) == ("1005", True, "")


def test_a_report_is_read_page_by_page_and_has_a_content_length(
    operator: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliations, "REPORT_PAGE", 1)
    monkeypatch.setattr(reconciliations, "REPORT_PIECE_BYTES", 100)
    for _ in range(2):
        damaged_payment()
    run = carried_out(operator)

    response = operator.get(f"{RUNS}/{run['id']}/report.csv")
    pieces = [piece for piece in response.response if isinstance(piece, bytes)]

    assert max(map(len, pieces)) == 100
    assert sum(map(len, pieces)) == response.content_length
    assert b"".join(pieces).count(b"\r\n") == 3


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"])
def test_no_cell_of_a_report_is_a_formula(operator: Caller, formula: str) -> None:
    damaged_payment()
    run = carried_out(operator)
    [found] = found_by(operator, run)
    operator.post(f"{FOUND}/{found['id']}/resolve", {"resolution": "other", "note": formula})

    [row] = csv.DictReader(io.StringIO(operator.get(f"{RUNS}/{run['id']}/report.csv").text, newline=""))

    assert row["note"] == f"'{formula}"
