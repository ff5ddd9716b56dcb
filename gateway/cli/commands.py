"""The commands of `flask --app gateway.app …`, for operators.

Errors end with one line on standard error: exit status 1 when the command could not be carried out, 2 when it was
called wrongly, 75 (EX_TEMPFAIL) when the database is away and the same command may work later.
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import click
from flask import Flask

from gateway import db
from gateway.cli import alert_receiver, balances, database, invariants, keys, reconciliation, users
from gateway.cli.support import actor, reports_errors
from gateway.domain.dead_letters import resolution
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.ids import parse_id
from gateway.states import DeadLetterStatus

LIST_DEFAULT, LIST_MAX = 20, 1000


class _Id(click.ParamType[UUID]):
    """An object's id."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        parsed = value if isinstance(value, UUID) else parse_id(value)
        if parsed is None:
            self.fail(f"{value!r} is not an id (a UUID in lower case with hyphens)", param, ctx)
        return parsed


@click.group("dead-letters")
def dead_letter_commands() -> None:
    """Look at payments and refunds that used up their attempts; replay or discard them."""


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@dead_letter_commands.command("list")
@click.option(
    "--status",
    type=click.Choice([*(status.value for status in DeadLetterStatus), "all"]),
    default=DeadLetterStatus.OPEN.value,
    show_default=True,
    help="Which to list.",
)
@click.option("--queue", help="Only those that died on this queue, such as settlement.requested.")
@click.option("--reason", help="Only those that died for this reason: rejected, expired, delivery_limit or in_doubt.")
@click.option("--merchant-id", type=_Id(), help="Only those of this merchant.")
@click.option("--before", type=_Id(), help="Only those older than the dead letter with this id, to read on.")
@click.option(
    "--limit", type=click.IntRange(1, LIST_MAX), default=LIST_DEFAULT, show_default=True, help="At most so many."
)
@_as_json
@reports_errors
def list_dead_letters(
    *,
    status: str,
    queue: str | None,
    reason: str | None,
    merchant_id: UUID | None,
    before: UUID | None,
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters, newest first."""
    wanted = DeadLetterFilter(
        status=None if status == "all" else status, queue=queue, reason=reason, merchant_id=merchant_id
    )
    with db.begin() as connection:
        found = resolution.list_newest(connection, wanted, before, limit)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("No dead letters." if status == "all" else f"No dead letters with status {status}.")
    else:
        names = (
            "id",
            "status",
            "queue",
            "reason",
            "attempts",
            "transaction_id",
            "refund_id",
            "dead_lettered_at",
            "exception",
        )
        click.echo(_table(names, found))
    if found.reached:
        click.echo(f"The search stopped there; it goes on with --before {found.reached}", err=True)


@dead_letter_commands.command("show")
@click.argument("id", type=_Id())
@_as_json
@reports_errors
def show_dead_letter(*, id: UUID, as_json: bool) -> None:
    """Show everything that is known of the dead letter with this ID."""
    with db.begin() as connection:
        _print_one(resolution.find(connection, id), as_json=as_json)


@dead_letter_commands.command("replay")
@click.argument("id", type=_Id())
@_as_json
@reports_errors
def replay_dead_letter(*, id: UUID, as_json: bool) -> None:
    """Give the payment or refund of the dead letter with this ID a fresh set of attempts.

    It goes back to its queue; when it succeeds the money moves once, however often it was tried before.
    """
    with db.begin() as connection:
        _print_one(resolution.replay(connection, id, actor()), as_json=as_json)


@dead_letter_commands.command("discard")
@click.argument("id", type=_Id())
@click.option("--note", help="Why it is given up, for whoever reads this later.")
@_as_json
@reports_errors
def discard_dead_letter(*, id: UUID, note: str | None, as_json: bool) -> None:
    """Give up the payment or refund of the dead letter with this ID: it moves to `failed`, for good.

    One that the provider has approved meanwhile cannot be given up, only replayed.
    """
    with db.begin() as connection:
        _print_one(resolution.discard(connection, id, actor(), note), as_json=as_json)


def _print_one(shown: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    width = max(map(len, shown))
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {_cell(value)}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _table(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    cells = [list(names), *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(lines)


def register(app: Flask) -> None:
    """Add the commands to `app`: one line per group."""
    app.cli.add_command(users.command)
    app.cli.add_command(dead_letter_commands)
    app.cli.add_command(reconciliation.command)
    app.cli.add_command(invariants.command)
    app.cli.add_command(balances.command)
    app.cli.add_command(keys.command)
    app.cli.add_command(database.command)
    app.cli.add_command(alert_receiver.command)
