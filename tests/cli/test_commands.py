"""The commands for operators, run as an operator runs them."""

import json
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import click
import pytest
from flask.testing import FlaskCliRunner

from gateway.app import create_app
from gateway.cli.commands import COMMANDS
from gateway.db import begin
from gateway.domain.dead_letters import intake, resolution
from gateway.domain.dead_letters.intake import DeadMessage
from gateway.domain.merchants import accounts
from gateway.flows.settlement import settle
from gateway.ids import new_id, utc_now
from gateway.security.passwords import verify_password
from tests.helpers.factories import count, make_merchant, route_payments, status_of

pytestmark = pytest.mark.usefixtures("database")

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def cli() -> FlaskCliRunner:
    """Return a runner of commands in this process."""
    return create_app().test_cli_runner()


def dead_payment() -> tuple[UUID, str]:
    """Return a dead-lettered transaction and the id of its dead letter."""
    [id] = route_payments(make_merchant(), "tok_error_always")
    for _ in range(4):
        settle([id], "task-1")
    message = DeadMessage("m", "settlement.requested", "rejected", "payments.settle", "[]", {}, utc_now(), (id,))
    with begin() as connection:
        intake.store(connection, [message])
        [letter] = resolution.list_newest(connection, resolution.DeadLetterFilter(), None, 1)
    return id, letter["id"]


def paths_of(commands: Iterable[click.Command], *names: str) -> dict[tuple[str, ...], click.Command]:
    """Return all commands and groups by the words that call them."""
    found: dict[tuple[str, ...], click.Command] = {}
    for command in commands:
        path = (*names, str(command.name))
        found[path] = command
        if isinstance(command, click.Group):
            found |= paths_of(command.commands.values(), *path)
    return found


def create_operator(cli: FlaskCliRunner, *options: str, email: str = "op@example.com") -> click.testing.Result:
    arguments = ["users", "create-operator", "--email", email, "--password-stdin", *options]
    return cli.invoke(args=arguments, input=f"{PASSWORD}\n")


def test_an_operator_is_created_with_a_password_from_standard_input(cli: FlaskCliRunner) -> None:
    result = create_operator(cli, email="Op@Example.com")

    assert result.exit_code == 0, result.output
    with begin() as connection:
        found = accounts.find_user(connection, "op@example.com")
    assert found is not None
    assert verify_password(PASSWORD, found.password_hash)
    assert PASSWORD not in result.output


def test_an_existing_operator_is_an_error_unless_if_missing_is_given(cli: FlaskCliRunner) -> None:
    create_operator(cli)

    assert create_operator(cli).exit_code == 1
    again = create_operator(cli, "--if-missing")
    assert (again.exit_code, "already" in again.output) == (0, True)
    assert count("users") == 1


def test_the_email_of_a_merchant_cannot_become_an_operator(cli: FlaskCliRunner) -> None:
    with begin() as connection:
        accounts.register(connection, email="op@example.com", password_hash="h", business_name="b", fee_basis_points=0)

    for options in ((), ("--if-missing",)):
        result = create_operator(cli, *options)
        assert result.exit_code == 1
        assert "taken" in result.output
    assert count("users", "role = 'operator'") == 0


@pytest.mark.parametrize("password", ["", "short", "x" * 129])
def test_a_password_that_is_too_short_or_too_long_is_rejected(cli: FlaskCliRunner, password: str) -> None:
    arguments = ["users", "create-operator", "--email", "op@example.com", "--password-stdin"]
    result = cli.invoke(args=arguments, input=f"{password}\n")

    assert result.exit_code == 1
    assert "12 to 128" in result.output
    assert count("users") == 0


def test_a_malformed_email_is_incorrect_usage(cli: FlaskCliRunner) -> None:
    result = create_operator(cli, email="op")

    assert result.exit_code == 2
    assert "--email" in result.output


def test_an_empty_list_is_reported(cli: FlaskCliRunner) -> None:
    assert cli.invoke(args=["dead-letters", "list"]).output == "No dead letters with status open.\n"
    assert cli.invoke(args=["dead-letters", "list", "--json"]).output == "[]\n"


def test_dead_letters_are_listed_as_a_table_and_as_json(cli: FlaskCliRunner) -> None:
    id, letter_id = dead_payment()

    table = cli.invoke(args=["dead-letters", "list"]).output.splitlines()
    listed = json.loads(cli.invoke(args=["dead-letters", "list", "--json"]).output)

    assert table[0].split() == [
        "id", "status", "queue", "reason", "attempts", "transaction_id", "refund_id", "dead_lettered_at", "exception",
    ]  # fmt: skip
    assert table[1].split()[:6] == [letter_id, "open", "settlement.requested", "rejected", "4", str(id)]
    assert [letter["id"] for letter in listed] == [letter_id]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--status", "replayed"], 0),
        (["--status", "all"], 1),
        (["--queue", "settlement.requested"], 1),
        (["--queue", "refund.requested"], 0),
        (["--reason", "expired"], 0),
        (["--merchant-id", "00000000-0000-7000-8000-000000000001"], 0),
        (["--before", "00000000-0000-7000-8000-000000000000"], 0),
    ],
)
def test_each_filter_applies(cli: FlaskCliRunner, options: list[str], found: int) -> None:
    dead_payment()

    assert len(json.loads(cli.invoke(args=["dead-letters", "list", "--json", *options]).output)) == found


def test_a_dead_letter_is_shown_with_all_fields(cli: FlaskCliRunner) -> None:
    id, letter_id = dead_payment()

    text = cli.invoke(args=["dead-letters", "show", letter_id]).output
    shown = json.loads(cli.invoke(args=["dead-letters", "show", letter_id, "--json"]).output)

    assert f"transaction_id    {id}" in text
    assert shown["transaction_id"] == str(id)
    assert "provider_error" in shown["exception"]


def test_a_replay_enqueues_the_transaction_once(cli: FlaskCliRunner) -> None:
    id, letter_id = dead_payment()

    first = cli.invoke(args=["dead-letters", "replay", letter_id])
    second = cli.invoke(args=["dead-letters", "replay", letter_id])

    assert first.exit_code == 0, first.output
    assert status_of(id) == "processing"
    assert second.exit_code == 1
    assert "replayed" in second.output
    assert count("audit_log", "actor LIKE 'cli%' AND action = 'dead_letter.replayed'") == 1


def test_a_discard_fails_the_transaction(cli: FlaskCliRunner) -> None:
    id, letter_id = dead_payment()

    result = cli.invoke(args=["dead-letters", "discard", letter_id, "--note", "Paid in the shop.", "--json"])

    assert json.loads(result.output)["note"] == "Paid in the shop."
    assert status_of(id) == "failed"


@pytest.mark.parametrize("command", ["show", "replay", "discard"])
def test_an_unknown_id_and_a_malformed_id_have_different_statuses(cli: FlaskCliRunner, command: str) -> None:
    unknown = cli.invoke(args=["dead-letters", command, str(new_id())])
    malformed = cli.invoke(args=["dead-letters", command, "42"])

    assert unknown.exit_code == 1
    assert unknown.output.startswith("Error: ")
    assert malformed.exit_code == 2


@pytest.mark.parametrize("path", sorted(paths_of(COMMANDS)), ids=" ".join)
def test_every_command_and_option_has_a_description(cli: FlaskCliRunner, path: tuple[str, ...]) -> None:
    found = paths_of(COMMANDS)[path]
    result = cli.invoke(args=[*path, "--help"])

    assert result.exit_code == 0
    assert found.help
    assert all(parameter.help for parameter in found.params if isinstance(parameter, click.Option))
