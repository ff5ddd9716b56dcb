"""Reconciliations over HTTP, for operators: ask for one, follow it, read what it found, as JSON or as CSV."""

import csv
import io
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import Page, list_page
from gateway.api.http.parameters import Moment
from gateway.api.http.periods import refuse_unless_ordered
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Id, Time
from gateway.api.http.validation import RequestModel
from gateway.api.resources.discrepancies import Discrepancy, DiscrepancyPage, DiscrepancyQuery, page_of
from gateway.config.values import ProviderName
from gateway.domain.reconciliation import discrepancies
from gateway.domain.reconciliation import requests as reconciliation_requests
from gateway.domain.reconciliation.discrepancies import DiscrepancyFilter
from gateway.errors import TooManyJobs

CSV = "text/csv; charset=utf-8"
REPORT_COLUMNS = tuple(name for name in Discrepancy.model_fields if name != "object")
REPORT_PAGE = 1_000
REPORT_PIECE_BYTES = 65_536
REPORT_IN_MEMORY_BYTES = 2**20
"""A larger report waits in a temporary file while it is sent."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet take a cell for a formula, wide characters included (OWASP, CSV injection)."""

routes = Routes("Reconciliation")


class ReconciliationOrder(RequestModel):
    """The period to reconcile, by time of completion: from a moment to a later one, which is not in it."""

    since: Annotated[Moment, Field(alias="from", examples=["2026-01-31T00:00:00Z"])]
    until: Annotated[Moment, Field(alias="to", examples=["2026-02-01T00:00:00Z"])]
    provider: Annotated[
        ProviderName | None, Field(description="Only what went to this provider", examples=["sandbox"])
    ] = None


class ReconciliationCounts(AnswerModel):
    """Rows that were compared, and open discrepancies; empty until the run has completed."""

    transactions: int = 0
    settlements: int = 0
    refunds: int = 0
    ledger_entries: int = 0
    statement_lines: int = 0
    discrepancies: Annotated[dict[str, int], Field(default_factory=dict, description="By kind")]
    new: Annotated[int, Field(description="Of these, first found by this run")] = 0
    known: Annotated[int, Field(description="Of these, found by an earlier run too")] = 0
    resolved: Annotated[int, Field(description="Found again, but resolved by an operator and unchanged")] = 0


class Reconciliation(AnswerModel):
    """A comparison of transactions, settlements, ledger and providers' statements."""

    id: Id
    object: Literal["reconciliation"]
    status: Literal["pending", "running", "completed", "failed"]
    since: Annotated[Time | None, Field(alias="from", description="null: since ever")]
    until: Annotated[Time, Field(alias="to")]
    provider: Annotated[str | None, Field(description="null: all")]
    counts: ReconciliationCounts
    totals: Annotated[dict[str, dict[str, int]], Field(description="By currency, in its minor unit")]
    error: Annotated[str | None, Field(description="Why it failed", examples=[None])]
    requested_by: Annotated[str | None, Field(description="null: the nightly run", examples=[None])]
    started_at: Time | None
    finished_at: Time | None


class ReconciliationPage(AnswerModel):
    """Reconciliations, newest first."""

    data: list[Reconciliation]
    next_cursor: str | None


@routes.post("/v1/reconciliations", scope="operations:write", answers={202: Reconciliation}, errors=(TooManyJobs,))
def create_reconciliation(call: Call, body: ReconciliationOrder) -> Reply:
    """Have a period reconciled.

    One reconciliation runs at a time, so it may be `pending` for a while; follow it at its `Location`.
    """
    refuse_unless_ordered(body.since, body.until)
    with db.begin() as connection:
        run = reconciliation_requests.request(connection, body.since, body.until, body.provider, call.actor)
    return Reply(run, 202, headers={"Location": f"/v1/reconciliations/{run['id']}"})


@routes.get("/v1/reconciliations", scope="operations:read", answers={200: ReconciliationPage})
def list_reconciliations(call: Call, query: Page) -> Reply:  # noqa: ARG001
    """List reconciliations, the nightly ones among them, newest first."""
    with db.autocommit() as connection:
        page = list_page(
            "reconciliation",
            query,
            lambda before, limit: reconciliation_requests.list_newest(connection, before, limit),
        )
    return Reply(page)


@routes.get("/v1/reconciliations/<id>", scope="operations:read", answers={200: Reconciliation})
def get_reconciliation(call: Call, id: Any) -> Reply:  # noqa: ARG001
    """Read a reconciliation."""
    with db.autocommit() as connection:
        return Reply(reconciliation_requests.find(connection, id))


@routes.get("/v1/reconciliations/<id>/discrepancies", scope="operations:read", answers={200: DiscrepancyPage})
def list_reconciliation_discrepancies(call: Call, id: Any, query: DiscrepancyQuery) -> Reply:  # noqa: ARG001
    """List what a reconciliation found, as it is now, newest first."""
    with db.autocommit() as connection:
        reconciliation_requests.find(connection, id)
    return page_of(query, id)


@routes.get("/v1/reconciliations/<id>/report.csv", scope="operations:read", answers={200: None}, media_type=CSV)
def get_reconciliation_report(call: Call, id: Any) -> Reply:  # noqa: ARG001
    """Download what a reconciliation found, as CSV.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.
    """
    with db.autocommit() as connection:
        reconciliation_requests.find(connection, id)
    report = SpooledTemporaryFile(REPORT_IN_MEMORY_BYTES)  # noqa: SIM115  # closed when it has been sent
    report.writelines(_rows_of(id))
    size = report.tell()
    report.seek(0)
    name = f'attachment; filename="reconciliation-{id}.csv"'
    return Reply(_pieces(report), headers={"Content-Disposition": name, "Content-Length": str(size)})


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Read a file to its end. Its length is announced, so a client sees that an answer was cut short."""
    with file:
        while piece := file.read(REPORT_PIECE_BYTES):
            yield piece


def _rows_of(run_id: UUID) -> Iterator[bytes]:
    """Make the report page by page; no connection is held in between."""
    wanted, before = DiscrepancyFilter(run_id=run_id), None
    yield _csv([REPORT_COLUMNS])
    while True:
        with db.autocommit() as connection:
            found = discrepancies.list_newest(connection, wanted, before, REPORT_PAGE)
        if found:
            yield _csv([[_safe(row[name]) for name in REPORT_COLUMNS] for row in found])
        if len(found) < REPORT_PAGE:
            return
        before = UUID(found[-1]["id"])


def _csv(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
