"""`flask invariants`: check the invariants."""

import json
import sys
from typing import Any

import click

from gateway.cli.support import json_option, reports_errors
from gateway.domain.invariants.checks import InvariantResult, Report
from gateway.flows import invariants
from gateway.ids import rfc3339

SHOWN_MAX = 5
BROKEN = 1
"""Exit status when an invariant is broken."""


@click.command("invariants")
@click.option(
    "--recent",
    is_flag=True,
    help="Check only what may have changed since the last check, and what that check found. Beat does so every minute.",
)
@json_option
@reports_errors
def command(*, recent: bool, as_json: bool) -> None:
    """Check the invariants of payments and the ledger.

    No payment is lost or settled twice, and the ledger balances. The command reads one snapshot of the database and can
    run at any time; a million payments take about 20 s. A violation is shown in /metrics, checked every minute until it
    is repaired, and causes an alert once an hour.

    Exit status: 0 if every invariant holds, 1 if one is broken, 75 if the check failed because of the database.
    """
    report = invariants.check(full=not recent)
    if as_json:
        click.echo(json.dumps(_represent(report), indent=2))
    else:
        _print(report)
    sys.exit(BROKEN if report.broken else 0)


def _represent(report: Report) -> dict[str, Any]:
    return {
        "checked_at": rfc3339(report.checked_at),
        "since": rfc3339(report.since) if report.since else None,
        "holds": not report.broken,
        "invariants": [
            {
                "name": result.invariant.name,
                "description": result.invariant.description,
                "metric": result.invariant.metric,
                "violations": result.violations,
                "sample": [{"subject": row.subject, "detail": row.detail} for row in result.sample],
            }
            for result in report.results
        ],
    }


def _print(report: Report) -> None:
    scope = f"since {report.since:%Y-%m-%d %H:%M:%S} UTC" if report.since else "everything"
    click.echo(f"Invariants at {report.checked_at:%Y-%m-%d %H:%M:%S} UTC, {scope}\n")
    for result in report.results:
        _print_one(result)
    click.echo()
    if report.broken:
        click.echo(f"{len(report.broken)} of {len(report.results)} are broken.")
    else:
        click.echo(f"All {len(report.results)} hold.")


def _print_one(result: InvariantResult) -> None:
    state = "broken" if result.violations else "holds"
    click.echo(f"{state:<7}{result.violations:>9,}  {result.invariant.name}")
    if not result.violations:
        return
    click.echo(f"{'':18}{result.invariant.description}")
    for row in result.sample[:SHOWN_MAX]:
        click.echo(f"{'':18}{row.subject}  {row.detail}")
    if result.violations > SHOWN_MAX:
        click.echo(f"{'':18}… and {result.violations - SHOWN_MAX:,} more; see --json")
    click.echo(f"{'':18}{result.invariant.remedy}")
