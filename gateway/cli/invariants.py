"""`flask invariants`: whether everything that must always be true is."""

import json
import sys
from typing import Any

import click
from sqlalchemy.exc import SQLAlchemyError

from gateway.domain.invariants.checks import InvariantResult, Report
from gateway.flows import invariants
from gateway.ids import rfc3339
from gateway.reasons import reason_of

SHOWN_MAX = 5
BROKEN = 1
"""Exit status when an invariant is broken."""


class NotChecked(click.ClickException):
    """The check could not be made."""

    exit_code = 2


@click.command("invariants")
@click.option(
    "--recent",
    is_flag=True,
    help="Only what can have changed since the last check, and what that one found: what beat runs every minute.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text, with all the ids that are kept.")
def command(*, recent: bool, as_json: bool) -> None:
    """Check that no payment is lost or settled twice, and that the ledger balances.

    Everything is read, on one snapshot of the database, beside running payments: about 20 s for a million of them.
    What is found is kept for /metrics, watched every minute until it is repaired, and alerted about once an hour.

    Exit status: 0 when every invariant holds, 1 when one is broken, 2 when the check could not be made (the database
    is away, has no tables, or took too long) or the command was called wrongly.
    """
    try:
        report = invariants.check(full=not recent)
    except SQLAlchemyError as exc:
        raise NotChecked(f"The invariants could not be checked: {reason_of(exc)}") from exc
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
