"""`flask balances`: whether every balance is what the ledger adds up to."""

import sys

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.flows import balances
from gateway.reasons import reason_of


@click.command("balances")
def command() -> None:
    """Compare every merchant's balance with the whole ledger, on one snapshot, beside running payments.

    Beat does so every night. Exit status: 0 when they agree, 1 when some differ (a critical alert is raised), 2 when
    the check could not be made.
    """
    try:
        found = balances.check()
    except SQLAlchemyError as exc:
        click.echo(f"Error: The balances could not be checked: {reason_of(exc)}", err=True)
        sys.exit(2)
    for row in found:
        click.echo(f"{row.merchant_id} {row.currency}: kept {row.kept or 'nothing'}, posted {row.posted or 'nothing'}")
    click.echo("Settled/refunded/fees differ from the ledger." if found else "Every balance agrees with the ledger.")
    sys.exit(1 if found else 0)
