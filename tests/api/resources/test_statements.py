"""Upload, list and retrieve the statements of providers."""

import io
from typing import Any

import pytest

from gateway.api.http.schemas import page_of
from gateway.api.resources.statements import STATEMENT_MAX_BYTES, Statement
from gateway.ids import new_id
from tests.api.conftest import Caller, Response, expect_problem, field_errors
from tests.helpers.factories import count
from tests.helpers.statements import HEADER, csv_of, line, settled_line

pytestmark = pytest.mark.usefixtures("database")

DAY = "2026-03-02T{}:00:00.000000Z"


def upload(operator: Caller, content: bytes, query: str = "", **options: Any) -> Response:
    options.setdefault("content_type", "text/csv")
    return operator.post(f"/v1/statements?provider=simulated{query}", content, **options)


def test_a_statement_is_stored_with_its_totals_and_reconciled(operator: Caller) -> None:
    lines = [settled_line(1_000), settled_line(2_500), line(type="refund", amount="5", fee="0", currency="EUR")]

    response = upload(operator, csv_of(*lines))

    assert response.status_code == 201, response.text
    Statement.model_validate_json(response.data)
    stored = response.json
    assert response.headers["Location"] == f"/v1/statements/{stored['id']}"
    assert (stored["provider"], stored["lines"]) == ("simulated", 3)
    assert stored["totals"] == {
        "EUR": {"charges": 0, "charged": 0, "refunds": 1, "refunded": 5, "fees": 0},
        "USD": {"charges": 2, "charged": 3_500, "refunds": 0, "refunded": 0, "fees": 36},
    }
    assert stored["from"].endswith("T00:00:00.000000Z")
    assert operator.get(f"/v1/statements/{stored['id']}").json == stored
    page = operator.get("/v1/statements?provider=simulated")
    page_of(Statement).model_validate_json(page.data)
    assert page.json["data"] == [stored]
    assert operator.get("/v1/statements?provider=sandbox").json["data"] == []
    assert count("statement_lines") == 3
    assert count("audit_log", "action = 'statement.uploaded'") == 1
    run = operator.get(f"/v1/reconciliations/{stored['reconciliation_id']}").json
    assert (run["status"], run["provider"], run["from"], run["to"]) == (
        "pending", "simulated", stored["from"], stored["to"],
    )  # fmt: skip


def test_the_same_file_is_stored_once(operator: Caller) -> None:
    content = csv_of(settled_line())

    first, again = upload(operator, content), upload(operator, content)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json == first.json
    assert (count("statements"), count("statement_lines"), count("reconciliation_runs")) == (1, 1, 1)
    assert operator.post("/v1/statements?provider=sandbox", content, content_type="text/csv").status_code == 201


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
def test_an_invalid_cell_is_named_and_nothing_is_stored(
    operator: Caller, cells: dict[str, str], error: tuple[str, str]
) -> None:
    response = upload(operator, csv_of(line(), line(charge_id="ch_2", type="charge") | cells))

    expect_problem(response, 422, "invalid_statement")
    assert field_errors(response) == {f"/3/{error[0]}": error[1]}
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
def test_an_invalid_file_is_rejected(operator: Caller, content: bytes, errors: dict[str, str]) -> None:
    response = upload(operator, content)

    expect_problem(response, 422, "invalid_statement")
    assert field_errors(response) == errors
    assert count("statements") == 0


def test_at_most_a_hundred_errors_are_listed(operator: Caller) -> None:
    response = upload(operator, csv_of(*(line(amount="x") for _ in range(300))))

    problem = expect_problem(response, 422, "invalid_statement")
    assert (len(problem["errors"]), problem["errors"][-1]["pointer"]) == (100, "/101/amount")


def test_a_line_outside_the_period_is_rejected(operator: Caller) -> None:
    period = f"&from={DAY.format('00')}&to={DAY.format('12')}"

    assert upload(operator, csv_of(line(time=DAY.format("11"))), period).status_code == 201
    late = upload(operator, csv_of(line(time=DAY.format("12"))), period)
    assert field_errors(late) == {"/2/time": "out_of_period"}


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
def test_invalid_parameters_are_named(operator: Caller, query: str, pointer: str) -> None:
    response = operator.post(f"/v1/statements?{query}", csv_of(line()), content_type="text/csv")

    assert response.status_code == 422, response.text
    assert list(field_errors(response)) == [pointer]


def test_only_csv_is_accepted(operator: Caller) -> None:
    for options in ({"content_type": "application/json"}, {"headers": {"Content-Encoding": "gzip"}}):
        expect_problem(upload(operator, csv_of(line()), **options), 415, "unsupported_media_type")


def test_the_size_of_a_statement_is_limited(operator: Caller) -> None:
    lines = csv_of(*(line(charge_id=f"ch_{number}") for number in range(10_000)))
    assert len(lines) > 64 * 1024

    assert upload(operator, lines).json["lines"] == 10_000
    full = lines + b"\r\n" * ((STATEMENT_MAX_BYTES - len(lines)) // 2)
    assert upload(operator, full).status_code == 201
    expect_problem(upload(operator, full + b"\r\n\r\n"), 413, "body_too_large")
    streamed = {"input_stream": io.BytesIO(full + b"\r\n\r\n"), "environ_base": {"wsgi.input_terminated": True}}
    response = operator.call("POST", "/v1/statements?provider=simulated", content_type="text/csv", **streamed)
    expect_problem(response, 413, "body_too_large")


def test_the_maximum_size_of_other_bodies_is_unchanged(operator: Caller) -> None:
    body = b'{"resolution": "accepted"' + b" " * 64 * 1024 + b"}"
    expect_problem(operator.post(f"/v1/discrepancies/{new_id()}/resolve", body), 413, "body_too_large")
