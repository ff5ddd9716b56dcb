"""`flask balances`: compare the balances with the ledger."""

import sys

import click

from gateway.cli.support import reports_errors
from gateway.flows import balances


@click.command("balances")
@reports_errors
def command() -> None:
    """Compare every merchant's balance with the whole ledger.

    The command reads one snapshot of the database and can run at any time. Beat runs the same check every night.

    Exit status: 0 if all balances agree, 1 if some differ (a critical alert is raised), 75 if the check failed because
    of the database.
    """
    found = balances.check()
    for row in found:
        click.echo(f"{row.merchant_id} {row.currency}: kept {row.kept or 'nothing'}, posted {row.posted or 'nothing'}")
    click.echo("Settled/refunded/fees differ from the ledger." if found else "Every balance agrees with the ledger.")
    sys.exit(1 if found else 0)
