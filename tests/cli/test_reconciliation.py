"""The output and the exit statuses of `flask reconcile`."""

import json

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from gateway.cli.reconciliation import command
from gateway.db import begin
from gateway.domain.reconciliation.runs import ADVISORY_LOCK
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import count, execute

pytestmark = pytest.mark.usefixtures("database")


def reconcile(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, prog_name="flask reconcile")


def test_without_discrepancies_the_status_is_0_and_the_totals_are_printed() -> None:
    settled_payment(amount=1_234_567)
    result = reconcile()
    assert result.exit_code == 0
    assert "Compared 1 transactions, 1 settlements, 0 refunds and 3 ledger entries" in result.stdout
    assert "1,234,567" in result.stdout
    assert "Everything agrees." in result.stdout


def test_with_discrepancies_the_status_is_1_and_they_are_listed_up_to_the_limit() -> None:
    for _ in range(3):
        settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    result = reconcile("--limit", "2")
    assert result.exit_code == 1
    assert "3 discrepancies: 3 new, 0 known before." in result.stdout
    assert result.stdout.count("The transaction is for 1005, its settlement for 1000.") == 2
    assert "… and 1 more" in result.stdout


def test_json_contains_the_run_and_its_discrepancies() -> None:
    id = settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    result = reconcile("--json")
    assert result.exit_code == 1
    printed = json.loads(result.stdout)
    assert printed["status"] == "completed"
    assert printed["counts"]["discrepancies"]["amount_mismatch"] == 1
    assert printed["totals"]["USD"]["settlements"] == 1_000
    assert [found["transaction_id"] for found in printed["discrepancies"]] == [str(id)]


def test_a_period_is_in_utc_unless_it_has_an_offset() -> None:
    result = reconcile("--from", "2026-03-01", "--to", "2026-03-02T01:00:00+01:00", "--json")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert (printed["period_from"], printed["period_to"]) == (
        "2026-03-01T00:00:00.000000Z",
        "2026-03-02T00:00:00.000000Z",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "yesterday"), "is not a time such as"),
        (("--from", "2026-03-02", "--to", "2026-03-01"), "must end after it begins"),
        (("--limit", "-1"), "--limit"),
    ],
    ids=["no time", "end before start", "limit"],
)
def test_an_incorrect_call_has_status_2_and_starts_no_run(arguments: tuple[str, ...], message: str) -> None:
    result = reconcile(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert count("reconciliation_runs") == 0


def test_a_second_reconciliation_at_the_same_time_has_status_2_and_prints_the_reason() -> None:
    with begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        result = reconcile()
    assert result.exit_code == 2
    assert result.stderr == "Error: Another reconciliation is running; wait until it has ended.\n"


def test_the_exit_statuses_are_in_the_help() -> None:
    assert "Exit status: 0 if everything agrees" in reconcile("--help").stdout
