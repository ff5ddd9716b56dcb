"""Compare uploaded statements with our records."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from gateway.flows import routing
from gateway.flows.reconciliation import reconcile, reconcile_as_requested
from gateway.flows.refunds import refund as carry_out
from gateway.ids import new_id, rfc3339, utc_now
from tests.api.conftest import Caller
from tests.api.resources.test_statements import upload
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import accept_payment, execute, make_merchant
from tests.helpers.refunds import paid, refunded, request_refund
from tests.helpers.statements import charge_of, csv_of, line, settled_line

pytestmark = pytest.mark.usefixtures("database")


def compared(operator: Caller, *lines: dict[str, str], query: str = "") -> list[dict[str, Any]]:
    """Upload a statement with these lines, and reconcile it; return the discrepancies."""
    response = upload(operator, csv_of(*lines), query)
    assert response.status_code == 201, response.text
    run = response.json["reconciliation_id"]
    reconcile_as_requested(UUID(run))
    assert operator.get(f"/v1/reconciliations/{run}").json["status"] == "completed"
    found: list[dict[str, Any]] = operator.get(f"/v1/reconciliations/{run}/discrepancies").json["data"]
    return found


def covering_today() -> str:
    """Return the parameters of a period that includes the payments of the test."""
    now = max(utc_now(), datetime.now(UTC))  # the gateway's times and those of the lines
    return f"&from={now:%Y-%m-%d}T00:00:00Z&to={quote(rfc3339(now))}"


def move_to(transaction_id: UUID, began: str, settled: str) -> None:
    """Set the times at which a payment was attempted and settled."""
    execute("UPDATE charge_attempts SET started_at = :at WHERE transaction_id = :id", at=began, id=transaction_id)
    execute("UPDATE settlements SET settled_at = :at WHERE transaction_id = :id", at=settled, id=transaction_id)
    execute("UPDATE transactions SET completed_at = :at WHERE id = :id", at=settled, id=transaction_id)


def test_a_matching_statement_has_no_discrepancies(operator: Caller) -> None:
    assert compared(operator, *(settled_line() for _ in range(3))) == []


def test_a_charge_for_a_discarded_payment_is_found(operator: Caller) -> None:
    abandoned = accept_payment(make_merchant(), "tok_error_always")
    routing.route([abandoned])
    execute(
        "UPDATE transactions SET status = 'failed', failure_category = 'discarded', failure_code = 'discarded', "
        "failure_retryable = false, failure_message = 'x' WHERE id = :id",
        id=abandoned,
    )

    [found] = compared(operator, line(idempotency_key=str(abandoned)))

    assert (found["kind"], found["subject_id"]) == ("charged_not_settled", str(abandoned))
    assert (found["transaction_id"], found["settlement_id"]) == (str(abandoned), None)
    assert (found["expected_amount"], found["actual_amount"], found["currency"]) == (1_000, 1_000, "USD")
    assert found["detail"] == ("simulated charged 1000 USD (ch_1), but the transaction is failed (discarded).")


def test_a_charge_for_a_payment_that_is_discarded_later_is_found_by_the_next_run(operator: Caller) -> None:
    payment = accept_payment(make_merchant(), "tok_error_always")
    routing.route([payment])
    assert compared(operator, line(idempotency_key=str(payment))) == []
    dead = "UPDATE transactions SET status = 'dead_lettered', failure_category = 'provider_error' WHERE id = :id"
    execute(dead, id=payment)

    assert reconcile().discrepancies == {"charged_not_settled": 1}


def test_unknown_lines_are_found(operator: Caller) -> None:
    found = compared(
        operator,
        line(charge_id="ch_1", idempotency_key=str(new_id())),
        line(charge_id="ch_2", idempotency_key="not ours"),
        line(charge_id="ch_1", idempotency_key=str(new_id()), type="refund", amount="7"),
    )

    assert [(row["kind"], row["transaction_id"], row["expected_amount"]) for row in found] == [
        ("unknown_to_us", None, None)
    ] * 3
    assert sorted(row["actual_amount"] for row in found) == [7, 1000, 1000]


def test_a_payment_that_was_charged_twice_is_found(operator: Caller) -> None:
    listed = settled_line()

    [found] = compared(operator, listed, {**listed, "charge_id": "ch_again"})

    assert (found["kind"], found["transaction_id"]) == ("duplicate_charge", listed["idempotency_key"])


def test_a_different_amount_and_a_different_currency_are_found(operator: Caller) -> None:
    payment, other = settled_payment(), settled_payment()

    found = compared(operator, charge_of(payment) | {"amount": "999"}, charge_of(other) | {"currency": "EUR"})

    assert {(row["kind"], row["transaction_id"], row["actual_amount"]) for row in found} == {
        ("statement_amount_mismatch", str(payment), 999),
        ("statement_currency_mismatch", str(other), 1_000),
    }
    assert {row["expected_amount"] for row in found} == {1_000}


def test_a_settlement_that_the_statement_omits_is_found(operator: Caller) -> None:
    listed, left_out = settled_line(), settled_payment()

    [found] = compared(operator, listed, query=covering_today())

    assert (found["kind"], found["transaction_id"]) == ("missing_at_provider", str(left_out))
    assert (found["expected_amount"], found["actual_amount"]) == (1_000, None)


def test_a_payment_at_midnight_is_missing_only_with_the_statements_of_both_days(operator: Caller) -> None:
    at_midnight = settled_payment()
    move_to(at_midnight, "2026-03-01T23:59:59Z", "2026-03-02T00:00:01Z")
    first, second, third = (f"2026-03-0{day}T00:00:00Z" for day in (1, 2, 3))

    assert compared(operator, query=f"&from={second}&to={third}") == []
    [found] = compared(operator, line(time=first), query=f"&from={first}&to={second}") or [{}]
    assert found["kind"] == "unknown_to_us", "the line that is there so that the file is another one"
    assert reconcile().discrepancies == {"missing_at_provider": 1, "unknown_to_us": 1}


def test_refunds_are_compared(operator: Caller) -> None:
    payment, refusing = paid(), paid("tok_refund_decline")
    refunds = {name: refunded(payment, 10) for name in ("completed", "left_out")}
    refunds |= {"failed": request_refund(refusing, 10), "pending": request_refund(payment, 10)}
    carry_out([refunds["failed"]], "task-1")
    lines = [
        line(charge_id="x", type="refund", idempotency_key=str(refunds[name]), amount=amount, fee="0")
        for name, amount in (("completed", "11"), ("failed", "10"), ("pending", "10"))
    ]

    found = compared(operator, charge_of(payment), charge_of(refusing), *lines, query=covering_today())

    assert {(row["kind"], row["subject_id"]) for row in found} == {
        ("statement_amount_mismatch", str(refunds["completed"])),
        ("refunded_not_recorded", str(refunds["failed"])),
        ("missing_at_provider", str(refunds["left_out"])),
    }


def test_without_statements_nothing_is_missing_at_a_provider() -> None:
    settled_payment()
    assert reconcile().discrepancies == {}


def test_an_empty_statement_means_that_nothing_happened(operator: Caller) -> None:
    payment = settled_payment()

    [found] = compared(operator, query=covering_today())

    assert (found["kind"], found["transaction_id"]) == ("missing_at_provider", str(payment))
