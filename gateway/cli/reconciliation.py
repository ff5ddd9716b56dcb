"""`flask reconcile`: a reconciliation now, on the operator's terminal."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from gateway import db
from gateway.domain.reconciliation import runs as reconciliation_runs
from gateway.domain.reconciliation.runs import LISTED_MAX, Run
from gateway.errors import GatewayError
from gateway.flows.reconciliation import reconcile
from gateway.models.reconciliation import DISCREPANCY_KINDS
from gateway.reasons import reason_of

LISTED_DEFAULT = 20
FOUND = 1
"""Exit status when there are discrepancies."""

_TOTALS = ("transactions", "settlements", "refunds", "fees", "net", "ledger_debits", "ledger_credits")


class NotCompared(click.ClickException):
    """The comparison could not be made."""

    exit_code = 2


class _Time(click.ParamType[datetime]):
    """A point in time; without an offset it is UTC, a date is its midnight."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-11-01 or 2026-11-01T12:00:00Z", param, ctx)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


@click.command("reconcile")
@click.option("--from", "period_from", type=_Time(), help="Only what completed or settled at this time or later.")
@click.option("--to", "period_to", type=_Time(), help="Only what completed or settled before this time; default: now.")
@click.option(
    "--limit",
    type=click.IntRange(0, LISTED_MAX),
    default=LISTED_DEFAULT,
    show_default=True,
    help="Show at most so many discrepancies.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(*, period_from: datetime | None, period_to: datetime | None, limit: int, as_json: bool) -> None:
    """Compare transactions with settlements and the ledger now, as every night.

    Times are UTC unless they name an offset, such as 2026-11-01 or 2026-11-01T12:00:00+01:00. What is found is stored,
    and one alert tells about it.

    Exit status: 0 when everything agrees, 1 when discrepancies were found, 2 when the comparison could not be made
    (another one is under way, it took longer than RECONCILIATION_TIMEOUT_SECONDS, the database is away) or the
    command was called wrongly.
    """
    try:
        run = reconcile(period_from, period_to)
        with db.begin() as connection:
            found = reconciliation_runs.found_by(connection, run.id, limit)
    except GatewayError as exc:
        raise NotCompared(exc.detail) from exc
    except db.UNAVAILABLE as exc:
        raise NotCompared(f"The database cannot be reached: {reason_of(exc)}") from exc
    if as_json:
        click.echo(json.dumps({**reconciliation_runs.represent(run), "discrepancies": found}, indent=2))
    else:
        _print(run, found)
    sys.exit(FOUND if run.discrepancies else 0)


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
