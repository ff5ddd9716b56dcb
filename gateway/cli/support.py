"""Shared code of the commands: errors, parameters, output, and the actor for the audit log."""

import functools
import getpass
import json
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway import db
from gateway.errors import GatewayError, TransientError
from gateway.ids import parse_id
from gateway.reasons import reason_of

P = ParamSpec("P")
R = TypeVar("R")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


class CommandFailed(click.ClickException):
    """The command failed."""

    exit_code = 1


class TemporarilyFailed(CommandFailed):
    """The command failed temporarily and can be repeated (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


class Id(click.ParamType[UUID]):
    """The id of an object."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        """Parse an id; called by click."""
        parsed = value if isinstance(value, UUID) else parse_id(value)
        if parsed is None:
            self.fail(f"{value!r} is not an id (a UUID in lower case with hyphens)", param, ctx)
        return parsed


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command report errors in one line, without a traceback."""

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TransientError as exc:
            raise TemporarilyFailed(exc.detail) from exc
        except GatewayError as exc:
            raise CommandFailed(exc.detail) from exc
        except db.UNAVAILABLE as exc:
            raise TemporarilyFailed(f"The database is unavailable: {reason_of(exc)}") from exc
        except SQLAlchemyError as exc:
            raise TemporarilyFailed(f"The database reported an error: {reason_of(exc)}") from exc

    return reporting


def actor() -> str:
    """Return the user who runs this command, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's uid without an account
        return "cli"


def print_object(shown: dict[str, Any], *, as_json: bool) -> None:
    """Print an object, one field per line."""
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    width = max(map(len, shown))
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {_cell(value)}")


def print_table(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Print the fields `names` of `rows` as a table with a header."""
    cells = [list(names), *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
