"""`flask dead-letters`: list, show, replay and discard dead letters."""

import json
from uuid import UUID

import click

from gateway import db
from gateway.cli.support import Id, actor, json_option, print_object, print_table, reports_errors
from gateway.domain.dead_letters import resolution
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.states import DeadLetterStatus

LIST_DEFAULT, LIST_MAX = 20, 1000
_COLUMNS = (
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


@click.group("dead-letters")
def command() -> None:
    """Show, replay and discard dead letters.

    A dead letter is a payment or refund that has used up its attempts, or a message that cannot be processed.
    """


@command.command("list")
@click.option(
    "--status",
    type=click.Choice([*(status.value for status in DeadLetterStatus), "all"]),
    default=DeadLetterStatus.OPEN.value,
    show_default=True,
    help="List dead letters with this status.",
)
@click.option("--queue", help="List dead letters of this queue only, such as settlement.requested.")
@click.option(
    "--reason",
    help="List dead letters with this reason only: rejected, expired, delivery_limit, in_doubt, unroutable or "
    "published.",
)
@click.option("--merchant-id", type=Id(), help="List dead letters of this merchant only.")
@click.option("--before", type=Id(), help="List dead letters that are older than the one with this id.")
@click.option(
    "--limit",
    type=click.IntRange(1, LIST_MAX),
    default=LIST_DEFAULT,
    show_default=True,
    help="Maximum number of dead letters to list.",
)
@json_option
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
    filters = DeadLetterFilter(
        status=None if status == "all" else status, queue=queue, reason=reason, merchant_id=merchant_id
    )
    with db.begin() as connection:
        found = resolution.list_newest(connection, filters, before, limit)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("No dead letters." if status == "all" else f"No dead letters with status {status}.")
    else:
        print_table(_COLUMNS, found)
    if found.reached:
        click.echo(f"The search reached its limit. Continue with --before {found.reached}", err=True)


@command.command("show")
@click.argument("id", type=Id())
@json_option
@reports_errors
def show(*, id: UUID, as_json: bool) -> None:
    """Show the dead letter with this ID.

    The output has its message, its headers and the last error.
    """
    with db.begin() as connection:
        print_object(resolution.find(connection, id), as_json=as_json)


@command.command("replay")
@click.argument("id", type=Id())
@json_option
@reports_errors
def replay(*, id: UUID, as_json: bool) -> None:
    """Replay the dead letter with this ID.

    Its payment or refund is requeued with a new set of attempts. The money moves at most once, however many
    attempts were made before.
    """
    with db.begin() as connection:
        print_object(resolution.replay(connection, id, actor()), as_json=as_json)


@command.command("discard")
@click.argument("id", type=Id())
@click.option("--note", help="The reason, for other operators.")
@json_option
@reports_errors
def discard(*, id: UUID, note: str | None, as_json: bool) -> None:
    """Discard the dead letter with this ID.

    The status of its payment or refund becomes `failed`, which is final. A payment or refund that the provider has
    approved in the meantime cannot be discarded. Replay it instead.
    """
    with db.begin() as connection:
        print_object(resolution.discard(connection, id, actor(), note), as_json=as_json)
