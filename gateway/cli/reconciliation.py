"""`flask reconcile`: run a reconciliation."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from gateway import db
from gateway.cli.support import CommandFailed, json_option, reports_errors
from gateway.domain.reconciliation import runs as reconciliation_runs
from gateway.domain.reconciliation.runs import LISTED_MAX, Run
from gateway.errors import PermanentError
from gateway.flows.reconciliation import reconcile
from gateway.models.reconciliation import DISCREPANCY_KINDS

LISTED_DEFAULT = 20
DISCREPANCIES_FOUND = 1
"""Exit status if there are discrepancies."""

_TOTALS = ("transactions", "settlements", "refunds", "fees", "net", "ledger_debits", "ledger_credits")


class ReconciliationFailed(CommandFailed):
    """The reconciliation was not carried out."""

    exit_code = 2


class _Time(click.ParamType[datetime]):
    """A point in time, in UTC unless it has an offset; a date means midnight."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-11-01 or 2026-11-01T12:00:00Z", param, ctx)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


@click.command("reconcile")
@click.option(
    "--from", "period_from", type=_Time(), help="Include only what completed or settled at this time or later."
)
@click.option(
    "--to", "period_to", type=_Time(), help="Include only what completed or settled before this time. [default: now]"
)
@click.option(
    "--limit",
    type=click.IntRange(0, LISTED_MAX),
    default=LISTED_DEFAULT,
    show_default=True,
    help="Maximum number of discrepancies to show.",
)
@json_option
@reports_errors
def command(*, period_from: datetime | None, period_to: datetime | None, limit: int, as_json: bool) -> None:
    """Compare transactions, settlements and the ledger.

    Beat does the same every night. Times are in UTC unless they have an offset, such as 2026-11-01 or
    2026-11-01T12:00:00+01:00. Discrepancies are stored, and one alert reports them.

    Exit status: 0 if everything agrees, 1 if there are discrepancies, 2 if the reconciliation was not carried out
    (another one is running, it took longer than RECONCILIATION_TIMEOUT_SECONDS, or the command was called
    incorrectly), 75 if it failed because of the database.
    """
    try:
        run = reconcile(period_from, period_to)
        with db.begin() as connection:
            found = reconciliation_runs.found_by(connection, run.id, limit)
    except PermanentError as exc:
        raise ReconciliationFailed(exc.detail) from exc
    if as_json:
        click.echo(json.dumps({**reconciliation_runs.represent(run), "discrepancies": found}, indent=2))
    else:
        _print(run, found)
    sys.exit(DISCREPANCIES_FOUND if run.discrepancies else 0)


def _print(run: Run, found: Sequence[dict[str, Any]]) -> None:
    counts = run.counts
    since = f"from {run.period_from:%Y-%m-%d %H:%M:%S} " if run.period_from else ""
    click.echo(f"Reconciliation {run.id}, {since}to {run.period_to:%Y-%m-%d %H:%M:%S} UTC")
    click.echo(
        f"Compared {counts['transactions']:,} transactions, {counts['settlements']:,} settlements, "
        f"{counts['refunds']:,} refunds and {counts['ledger_entries']:,} ledger entries in {run.seconds:.1f} s "
        f"({run.compared / max(run.seconds, 0.001):,.0f} rows/s)."
    )
    if run.totals:
        click.echo()
        click.echo("Totals in minor units" + "".join(f"{name.replace('_', ' '):>20}" for name in _TOTALS))
        for currency, sums in sorted(run.totals.items()):
            click.echo(f"{currency:<21}" + "".join(f"{sums.get(name, 0):>20,}" for name in _TOTALS))
    click.echo()
    if not run.discrepancies:
        resolved = f" ({counts['resolved']} resolved ones are unchanged)" if counts["resolved"] else ""
        click.echo(f"Everything agrees{resolved}.")
        return
    click.echo(f"{sum(run.discrepancies.values())} discrepancies: {counts['new']} new, {counts['known']} known before.")
    for kind in DISCREPANCY_KINDS:
        if kind in run.discrepancies:
            click.echo(f"  {kind:<22}{run.discrepancies[kind]:>8,}")
    if found:
        click.echo()
        for row in found:
            click.echo(_line(row))
    if len(found) < sum(run.discrepancies.values()):
        click.echo(f"… and {sum(run.discrepancies.values()) - len(found):,} more; see --limit and --json.")


def _line(row: dict[str, Any]) -> str:
    amounts = " → ".join(
        "-" if amount is None else str(amount) for amount in (row["expected_amount"], row["actual_amount"])
    )
    return f"{row['kind']:<22}{row['subject_id']}  {row['currency'] or '-'} {amounts}  {row['detail']}"
