"""Errors of commands: one line on standard error, and the exit status."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from flask.testing import FlaskCliRunner
from sqlalchemy.exc import OperationalError, ProgrammingError

from gateway.app import create_app
from gateway.cli.support import reports_errors
from gateway.errors import NotFound, Overloaded
from tests.helpers.engines import engine_on

pytestmark = pytest.mark.unit

ID = "0199a0de-0000-7000-8000-000000000001"


@pytest.fixture
def without_database() -> Iterator[FlaskCliRunner]:
    """Return a runner of commands whose database is unavailable."""
    with engine_on("postgresql://u:hunter2@127.0.0.1:1/d"):
        yield create_app().test_cli_runner()


@pytest.mark.parametrize(
    "command",
    [
        ["balances"],
        ["database", "set-session-defaults"],
        ["dead-letters", "discard", ID],
        ["dead-letters", "list"],
        ["dead-letters", "replay", ID],
        ["dead-letters", "show", ID],
        ["invariants"],
        ["invariants", "--recent"],
        ["keys", "revoke-all", "--yes"],
        ["reconcile"],
        ["users", "create-operator", "--email", "op@example.com", "--password-stdin"],
        ["users", "unlock", "op@example.com"],
    ],
    ids=" ".join,
)
def test_without_the_database_every_command_has_exit_status_75(
    without_database: FlaskCliRunner, command: list[str]
) -> None:
    result = without_database.invoke(args=command)

    assert result.exit_code == 75
    assert result.output.startswith("Error: The database is unavailable: ")
    assert result.output.count("\n") == 1
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (NotFound("There is no such id."), 1, "There is no such id."),
        (Overloaded(), 75, Overloaded.title()),
        (OperationalError("SELECT 1", {}, OSError("refused")), 75, "The database is unavailable: OSError: refused"),
        (
            ProgrammingError("SELECT 1", {}, OSError("no table")),
            75,
            "The database reported an error: OSError: no table",
        ),
    ],
    ids=["permanent", "transient", "unavailable", "rejected"],
)
def test_an_error_has_one_line_and_an_exit_status(error: Exception, status: int, text: str) -> None:
    @click.command()
    @reports_errors
    def failing() -> None:
        raise error

    result = CliRunner().invoke(failing)

    assert (result.exit_code, result.output) == (status, f"Error: {text}\n")
