"""Uploading providers' statements, and what comparing them finds (api.md, Operators)."""

import io
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from gateway.api.resources.statements import STATEMENT_MAX_BYTES, Statement, StatementPage
from gateway.flows import routing
from gateway.flows.reconciliation import reconcile, reconcile_as_requested
from gateway.flows.refunds import refund as carry_out
from gateway.ids import new_id, rfc3339, utc_now
from tests.api.conftest import Answer, Caller, expect_problem, field_errors
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import accept_payment, count, execute, make_merchant
from tests.helpers.refunds import ask, paid, refunded
from tests.helpers.statements import HEADER, charge_of, csv_of, line, settled_line

pytestmark = pytest.mark.usefixtures("database")

DAY = "2026-03-02T{}:00:00.000000Z"


def upload(operator: Caller, content: bytes, query: str = "", **options: Any) -> Answer:
    options.setdefault("content_type", "text/csv")
    return operator.post(f"/v1/statements?provider=simulated{query}", content, **options)


def compared(operator: Caller, *lines: dict[str, str], query: str = "") -> list[dict[str, Any]]:
    """What the reconciliation of a statement with these lines finds."""
    answer = upload(operator, csv_of(*lines), query)
    assert answer.status_code == 201, answer.text
    run = answer.json["reconciliation_id"]
    reconcile_as_requested(UUID(run))
    assert operator.get(f"/v1/reconciliations/{run}").json["status"] == "completed"
    found: list[dict[str, Any]] = operator.get(f"/v1/reconciliations/{run}/discrepancies").json["data"]
    return found


def covering(hours: int = 1) -> str:
    """A period that covers the payments of a test."""
    day = utc_now().strftime("%Y-%m-%d")
    return f"&from={day}T00:00:00Z&to={quote(rfc3339(utc_now()))}" if hours else ""


def move_to(transaction_id: UUID, began: str, settled: str) -> None:
    """As if the payment had been attempted and settled at these times."""
    execute("UPDATE charge_attempts SET started_at = :at WHERE transaction_id = :id", at=began, id=transaction_id)
    execute("UPDATE settlements SET settled_at = :at WHERE transaction_id = :id", at=settled, id=transaction_id)
    execute("UPDATE transactions SET completed_at = :at WHERE id = :id", at=settled, id=transaction_id)


def test_a_statement_is_stored_with_its_sums_and_compared(operator: Caller) -> None:
    lines = [settled_line(1_000), settled_line(2_500), line(type="refund", amount="5", fee="0", currency="EUR")]

    answer = upload(operator, csv_of(*lines))

    assert answer.status_code == 201, answer.text
    Statement.model_validate_json(answer.data)
    stored = answer.json
    assert answer.headers["Location"] == f"/v1/statements/{stored['id']}"
    assert (stored["provider"], stored["lines"]) == ("simulated", 3)
    assert stored["totals"] == {
        "EUR": {"charges": 0, "charged": 0, "refunds": 1, "refunded": 5, "fees": 0},
        "USD": {"charges": 2, "charged": 3_500, "refunds": 0, "refunded": 0, "fees": 36},
    }
    assert stored["from"].endswith("T00:00:00.000000Z")
    assert operator.get(f"/v1/statements/{stored['id']}").json == stored
    page = operator.get("/v1/statements?provider=simulated")
    StatementPage.model_validate_json(page.data)
    assert page.json["data"] == [stored]
    assert operator.get("/v1/statements?provider=sandbox").json["data"] == []
    assert count("statement_lines") == 3
    assert count("audit_log", "action = 'statement.uploaded'") == 1
    run = operator.get(f"/v1/reconciliations/{stored['reconciliation_id']}").json
    assert (run["status"], run["provider"], run["from"], run["to"]) == (
        "pending", "simulated", stored["from"], stored["to"],
    )  # fmt: skip


def test_the_same_file_again_is_the_same_statement(operator: Caller) -> None:
    content = csv_of(settled_line())

    first, again = upload(operator, content), upload(operator, content)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json == first.json
    assert (count("statements"), count("statement_lines"), count("reconciliation_runs")) == (1, 1, 1)
    assert operator.post("/v1/statements?provider=sandbox", content, content_type="text/csv").status_code == 201


def test_a_statement_that_agrees_finds_nothing(operator: Caller) -> None:
    assert compared(operator, *(settled_line() for _ in range(3))) == []


def test_what_the_provider_charged_for_an_abandoned_payment_is_found(operator: Caller) -> None:
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


def test_a_payment_that_is_discarded_after_its_statement_came_is_found_by_the_next_run(operator: Caller) -> None:
    payment = accept_payment(make_merchant(), "tok_error_always")
    routing.route([payment])
    assert compared(operator, line(idempotency_key=str(payment))) == []
    dead = "UPDATE transactions SET status = 'dead_lettered', failure_category = 'provider_error' WHERE id = :id"
    execute(dead, id=payment)

    assert reconcile().discrepancies == {"charged_not_settled": 1}


def test_what_nobody_knows_is_found(operator: Caller) -> None:
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


def test_an_amount_and_a_currency_that_differ_are_found(operator: Caller) -> None:
    payment, other = settled_payment(), settled_payment()

    found = compared(operator, charge_of(payment) | {"amount": "999"}, charge_of(other) | {"currency": "EUR"})

    assert {(row["kind"], row["transaction_id"], row["actual_amount"]) for row in found} == {
        ("statement_amount_mismatch", str(payment), 999),
        ("statement_currency_mismatch", str(other), 1_000),
    }
    assert {row["expected_amount"] for row in found} == {1_000}


def test_a_settlement_that_the_statement_leaves_out_is_found(operator: Caller) -> None:
    listed, left_out = settled_line(), settled_payment()

    [found] = compared(operator, listed, query=covering())

    assert (found["kind"], found["transaction_id"]) == ("missing_at_provider", str(left_out))
    assert (found["expected_amount"], found["actual_amount"]) == (1_000, None)


def test_a_payment_at_midnight_is_missing_only_when_both_days_are_here(operator: Caller) -> None:
    at_midnight = settled_payment()
    move_to(at_midnight, "2026-03-01T23:59:59Z", "2026-03-02T00:00:01Z")
    first, second, third = (f"2026-03-0{day}T00:00:00Z" for day in (1, 2, 3))

    assert compared(operator, query=f"&from={second}&to={third}") == []
    [found] = compared(operator, line(time=first), query=f"&from={first}&to={second}") or [{}]
    assert found["kind"] == "unknown_to_us", "the line that is there so that the file is another one"
    assert reconcile().discrepancies == {"missing_at_provider": 1, "unknown_to_us": 1}


def test_a_refund_is_compared_too(operator: Caller) -> None:
    payment, refusing = paid(), paid("tok_refund_decline")
    refunds = {name: refunded(payment, 10) for name in ("completed", "left_out")}
    refunds |= {"failed": ask(refusing, 10), "pending": ask(payment, 10)}
    carry_out([refunds["failed"]], "task-1")
    lines = [
        line(charge_id="x", type="refund", idempotency_key=str(refunds[name]), amount=amount, fee="0")
        for name, amount in (("completed", "11"), ("failed", "10"), ("pending", "10"))
    ]

    found = compared(operator, charge_of(payment), charge_of(refusing), *lines, query=covering())

    assert {(row["kind"], row["subject_id"]) for row in found} == {
        ("statement_amount_mismatch", str(refunds["completed"])),
        ("refunded_not_recorded", str(refunds["failed"])),
        ("missing_at_provider", str(refunds["left_out"])),
    }


def test_nothing_is_missing_at_a_provider_whose_statements_we_do_not_have() -> None:
    settled_payment()
    assert reconcile().discrepancies == {}


@pytest.mark.parametrize(
    ("cells", "error"),
    [
        ({"charge_id": ""}, ("charge_id", "invalid_format")),
        ({"charge_id": "x" * 256}, ("charge_id", "invalid_format")),
        ({"idempotency_key": "ä"}, ("idempotency_key", "invalid_format")),
        ({"charge_id": "4242424242424242"}, ("charge_id", "card_number_rejected")),
        ({"type": "payout"}, ("type", "invalid_choice")),
        ({"amount": "0"}, ("amount", "out_of_range")),
        ({"amount": "-5"}, ("amount", "out_of_range")),
        ({"amount": "1.5"}, ("amount", "out_of_range")),
        ({"amount": "1000000000000"}, ("amount", "out_of_range")),
        ({"fee": "-1"}, ("fee", "out_of_range")),
        ({"currency": "usd"}, ("currency", "unsupported_currency")),
        ({"currency": "XXX"}, ("currency", "unsupported_currency")),
        ({"time": "yesterday"}, ("time", "invalid_time")),
        ({"time": "2026-02-30T00:00:00Z"}, ("time", "invalid_time")),
        ({"time": "2026-02-03T00:00:00"}, ("time", "invalid_time")),
    ],
)
def test_a_bad_cell_is_named_by_line_and_column_and_nothing_is_stored(
    operator: Caller, cells: dict[str, str], error: tuple[str, str]
) -> None:
    answer = upload(operator, csv_of(line(), line(charge_id="ch_2", type="charge") | cells))

    expect_problem(answer, 422, "invalid_statement")
    assert field_errors(answer) == {f"/3/{error[0]}": error[1]}
    assert (count("statements"), count("statement_lines"), count("reconciliation_runs")) == (0, 0, 0)


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        (b"", {"/1": "invalid_header"}),
        (b"charge_id,amount\r\n", {"/1": "invalid_header"}),
        (b"\x00\xff\xfe", {"/1": "invalid_header"}),
        (f"{HEADER}\r\na,b\r\n".encode(), {"/2": "invalid_row"}),
        (f'{HEADER}\r\n"a"b,c\r\n'.encode(), {"/2": "invalid_row"}),
        (csv_of(), {"": "required"}),
        (csv_of(line(), line(), line(charge_id="ch_2")), {"/3": "duplicate"}),
    ],
)
def test_what_is_no_statement_is_refused(operator: Caller, content: bytes, errors: dict[str, str]) -> None:
    answer = upload(operator, content)

    expect_problem(answer, 422, "invalid_statement")
    assert field_errors(answer) == errors
    assert count("statements") == 0


def test_at_most_a_hundred_errors_are_listed(operator: Caller) -> None:
    answer = upload(operator, csv_of(*(line(amount="x") for _ in range(300))))

    problem = expect_problem(answer, 422, "invalid_statement")
    assert (len(problem["errors"]), problem["errors"][-1]["pointer"]) == (100, "/101/amount")


def test_a_line_outside_of_the_period_is_refused(operator: Caller) -> None:
    period = f"&from={DAY.format('00')}&to={DAY.format('12')}"

    assert upload(operator, csv_of(line(time=DAY.format("11"))), period).status_code == 201
    late = upload(operator, csv_of(line(time=DAY.format("12"))), period)
    assert field_errors(late) == {"/2/time": "out_of_period"}


def test_an_empty_statement_says_that_nothing_happened(operator: Caller) -> None:
    payment = settled_payment()

    [found] = compared(operator, query=covering())

    assert (found["kind"], found["transaction_id"]) == ("missing_at_provider", str(payment))


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("provider=nobody", "/provider"),
        ("", "/provider"),
        ("provider=simulated&from=now", "/from"),
        (f"provider=simulated&from={DAY.format('01')}&to={DAY.format('01')}", "/to"),
        ("provider=simulated&to=2999-01-01T00:00:00Z", "/to"),
    ],
)
def test_parameters_that_are_not_valid_are_named(operator: Caller, query: str, pointer: str) -> None:
    answer = operator.post(f"/v1/statements?{query}", csv_of(line()), content_type="text/csv")

    assert answer.status_code == 422, answer.text
    assert list(field_errors(answer)) == [pointer]


def test_only_csv_is_taken(operator: Caller) -> None:
    for options in ({"content_type": "application/json"}, {"headers": {"Content-Encoding": "gzip"}}):
        expect_problem(upload(operator, csv_of(line()), **options), 415, "unsupported_media_type")


def test_a_statement_may_be_large_but_not_too_large(operator: Caller) -> None:
    lines = csv_of(*(line(charge_id=f"ch_{number}") for number in range(10_000)))
    assert len(lines) > 64 * 1024

    assert upload(operator, lines).json["lines"] == 10_000
    full = lines + b"\r\n" * ((STATEMENT_MAX_BYTES - len(lines)) // 2)
    assert upload(operator, full).status_code == 201
    expect_problem(upload(operator, full + b"\r\n\r\n"), 413, "body_too_large")
    streamed = {"input_stream": io.BytesIO(full + b"\r\n\r\n"), "environ_base": {"wsgi.input_terminated": True}}
    answer = operator.call("POST", "/v1/statements?provider=simulated", content_type="text/csv", **streamed)
    expect_problem(answer, 413, "body_too_large")


def test_other_calls_keep_their_limit(operator: Caller) -> None:
    body = b'{"resolution": "accepted"' + b" " * 64 * 1024 + b"}"
    expect_problem(operator.post(f"/v1/discrepancies/{new_id()}/resolve", body), 413, "body_too_large")


def test_merchants_have_no_part_in_it(merchant: Caller) -> None:
    expect_problem(upload(merchant, csv_of(line())), 403, "insufficient_scope")
    expect_problem(merchant.get("/v1/statements"), 403, "insufficient_scope")
    expect_problem(merchant.get(f"/v1/statements/{new_id()}"), 403, "insufficient_scope")


def test_what_was_never_uploaded_is_not_found(operator: Caller) -> None:
    expect_problem(operator.get(f"/v1/statements/{new_id()}"), 404, "not_found")
