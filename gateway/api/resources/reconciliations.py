"""Reconciliations, for operators: request one, follow it, and retrieve its discrepancies as JSON or CSV."""

import csv
import io
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import TimestampParameter
from gateway.api.http.periods import check_period
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.api.http.validation import RequestModel
from gateway.api.resources.discrepancies import Discrepancy, DiscrepancyQuery, list_matching
from gateway.config.values import ProviderName
from gateway.domain.reconciliation import discrepancies
from gateway.domain.reconciliation import requests as reconciliation_requests
from gateway.domain.reconciliation.discrepancies import DiscrepancyFilter
from gateway.errors import TooManyJobs
from gateway.states import RunStatus

CSV = "text/csv; charset=utf-8"
REPORT_COLUMNS = tuple(name for name in Discrepancy.model_fields if name != "object")
REPORT_PAGE = 1_000
REPORT_PIECE_BYTES = 65_536
REPORT_IN_MEMORY_BYTES = 2**20
"""A larger report is stored in a temporary file while it is sent."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A spreadsheet takes a cell that begins with one of these for a formula (OWASP, CSV injection)."""

routes = Routes("Reconciliation")


class ReconciliationRequest(RequestModel):
    """The period to reconcile: transactions and refunds that completed in it."""

    since: Annotated[
        TimestampParameter, Field(alias="from", description="Start of the period", examples=["2026-01-31T00:00:00Z"])
    ]
    until: Annotated[
        TimestampParameter,
        Field(alias="to", description="End of the period, which excludes this time", examples=["2026-02-01T00:00:00Z"]),
    ]
    provider: Annotated[
        ProviderName | None, Field(description="Only transactions of this provider", examples=["sandbox"])
    ] = None


class ReconciliationCounts(ResponseModel):
    """The numbers of compared rows and of discrepancies; empty until the reconciliation has completed."""

    transactions: int = 0
    settlements: int = 0
    refunds: int = 0
    ledger_entries: int = 0
    statement_lines: int = 0
    discrepancies: Annotated[dict[str, int], Field(default_factory=dict, description="Open discrepancies by kind")]
    new: Annotated[int, Field(description="Discrepancies that this reconciliation found first")] = 0
    known: Annotated[int, Field(description="Discrepancies that an earlier reconciliation found too")] = 0
    resolved: Annotated[
        int, Field(description="Discrepancies that an operator has resolved and that have not changed since")
    ] = 0


class Reconciliation(ResponseModel):
    """A comparison of the transactions, settlements, refunds, ledger entries and provider statements of a period."""

    id: Id
    object: Literal["reconciliation"]
    status: RunStatus
    since: Annotated[
        Timestamp | None, Field(alias="from", description="Start of the period; null: from the first transaction on")
    ]
    until: Annotated[Timestamp, Field(alias="to", description="End of the period, which excludes this time")]
    provider: Annotated[str | None, Field(description="The provider; null: all providers")]
    counts: ReconciliationCounts
    totals: Annotated[dict[str, dict[str, int]], Field(description="Sums by currency, in its minor unit")]
    error: Annotated[str | None, Field(description="Why the reconciliation failed", examples=[None])]
    requested_by: Annotated[
        str | None, Field(description="Who requested it; null: the nightly schedule", examples=[None])
    ]
    started_at: Timestamp | None
    finished_at: Timestamp | None


@routes.post("/v1/reconciliations", scope="operations:write", responses={202: Reconciliation}, errors=(TooManyJobs,))
def create_reconciliation(context: RequestContext, body: ReconciliationRequest) -> ApiResponse:
    """Request the reconciliation of a period.

    It runs in the background, one reconciliation at a time. Retrieve it at its `Location` to follow its progress.
    """
    check_period(body.since, body.until)
    with db.begin() as connection:
        run = reconciliation_requests.request(connection, body.since, body.until, body.provider, context.actor)
    return ApiResponse(run, 202, headers={"Location": f"/v1/reconciliations/{run['id']}"})


@routes.get("/v1/reconciliations", scope="operations:read", responses={200: page_of(Reconciliation)})
def list_reconciliations(query: ListQuery) -> ApiResponse:
    """List reconciliations, including the nightly ones, newest first."""
    return list_response("reconciliation", query, reconciliation_requests.list_newest)


@routes.get("/v1/reconciliations/<id>", scope="operations:read", responses={200: Reconciliation})
def get_reconciliation(id: UUID) -> ApiResponse:
    """Retrieve a reconciliation."""
    with db.autocommit() as connection:
        return ApiResponse(reconciliation_requests.find(connection, id))


@routes.get("/v1/reconciliations/<id>/discrepancies", scope="operations:read", responses={200: page_of(Discrepancy)})
def list_reconciliation_discrepancies(id: UUID, query: DiscrepancyQuery) -> ApiResponse:
    """List the discrepancies that a reconciliation found, in their current state, newest first."""
    with db.autocommit() as connection:
        reconciliation_requests.find(connection, id)
    return list_matching(query, id)


@routes.get("/v1/reconciliations/<id>/report.csv", scope="operations:read", responses={200: None}, media_type=CSV)
def get_reconciliation_report(id: UUID) -> ApiResponse:
    """Download the discrepancies that a reconciliation found, as CSV.

    A cell that a spreadsheet would interpret as a formula is prefixed with an apostrophe.
    """
    with db.autocommit() as connection:
        reconciliation_requests.find(connection, id)
    report = SpooledTemporaryFile(REPORT_IN_MEMORY_BYTES)  # noqa: SIM115  # closed by _pieces
    report.writelines(_rows_of(id))
    size = report.tell()
    report.seek(0)
    name = f'attachment; filename="reconciliation-{id}.csv"'
    return ApiResponse(_pieces(report), headers={"Content-Disposition": name, "Content-Length": str(size)})


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file in pieces, and close it. Since Content-Length is sent, a client notices a truncated response."""
    with file:
        while piece := file.read(REPORT_PIECE_BYTES):
            yield piece


def _rows_of(run_id: UUID) -> Iterator[bytes]:
    """Yield the report page by page; no database connection is held in between."""
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
