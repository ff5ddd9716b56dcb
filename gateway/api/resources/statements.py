"""Settlement statements of providers, for operators."""

from typing import IO, Annotated, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import TimestampParameter
from gateway.api.http.periods import check_period
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.api.http.uploads import Upload
from gateway.api.http.validation import QueryModel
from gateway.config import settings
from gateway.config.values import ProviderName
from gateway.domain.reconciliation import statement_files, statements
from gateway.domain.reconciliation.statement_files import InvalidStatement
from gateway.domain.reconciliation.statements import NewStatement
from gateway.errors import TooManyJobs
from gateway.ids import new_id

STATEMENT_MAX_BYTES = 10 * 1024 * 1024

routes = Routes("Reconciliation")


class StatementTotals(ResponseModel):
    """Sums over the lines of one currency, in its minor unit."""

    charges: Annotated[int, Field(description="Number of `charge` lines")]
    charged: Annotated[int, Field(description="Sum of the charges, in the currency's minor unit")]
    refunds: Annotated[int, Field(description="Number of `refund` lines")]
    refunded: Annotated[int, Field(description="Sum of the refunds, in the currency's minor unit")]
    fees: Annotated[int, Field(description="Sum of the provider's fees, in the currency's minor unit")]


class Statement(ResponseModel):
    """A provider's list of the charges and refunds of a period."""

    id: Id
    object: Literal["statement"]
    provider: str
    since: Annotated[Timestamp, Field(alias="from", description="Start of the period")]
    until: Annotated[Timestamp, Field(alias="to", description="End of the period, which excludes this time")]
    lines: Annotated[int, Field(description="Number of lines of the file, without its header")]
    totals: Annotated[dict[str, StatementTotals], Field(description="Sums by currency")]
    sha256: Annotated[str, Field(description="SHA-256 of the file, in hexadecimal", examples=["9f86d081884c7d65" * 4])]
    reconciliation_id: Annotated[Id, Field(description="The reconciliation that compares the statement")]
    uploaded_by: Annotated[str, Field(examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    created_at: Timestamp


class StatementQuery(ListQuery):
    """Filters of statements."""

    provider: ProviderName | None = None


class StatementUpload(QueryModel):
    """The provider and the period of an uploaded statement."""

    provider: ProviderName
    since: Annotated[
        TimestampParameter | None,
        Field(alias="from", description="Start of the period; by default, the start of the first line's day in UTC"),
    ] = None
    until: Annotated[
        TimestampParameter | None,
        Field(
            alias="to",
            description="End of the period, which excludes this time; by default, the end of the last line's day in "
            "UTC, or now if that is earlier",
        ),
    ] = None


@routes.post(
    "/v1/statements",
    scope="operations:write",
    upload=Upload("text/csv", STATEMENT_MAX_BYTES),
    responses={201: Statement, 200: Statement},
    errors=(InvalidStatement, TooManyJobs),
)
def upload_statement(context: RequestContext, query: StatementUpload, upload: IO[bytes]) -> ApiResponse:
    """Upload a settlement statement of a provider, and compare it with our records.

    The body is CSV (RFC 4180) of at most 10 MiB whose first line is
    `charge_id,idempotency_key,type,amount,fee,currency,time`: `charge_id` is the provider's reference,
    `idempotency_key` is the id of the transaction or refund, `type` is `charge` or `refund`, `amount` and `fee` are
    integers in the currency's minor unit, and `time` is RFC 3339.

    If a line is not valid, nothing is stored, and `errors` lists up to 100 lines and columns, such as `/17/amount`. The
    statement must list everything that happened from `from` to `to`, because what it omits is reported as missing. A
    longer statement may be uploaded in parts. Uploading the same file again returns 200 and the first upload.
    """
    check_period(query.since, query.until)
    limit = settings().database_timeout_seconds
    statement = NewStatement(new_id(), query.provider, query.since, query.until)
    with (
        statement_files.read(
            upload,
            prefix=(statement.id, statement.provider),
            since=query.since,
            until=query.until,
        ) as file,
        db.answer_timeout(limit + db.ANSWER_MARGIN_SECONDS),
        db.begin() as connection,
    ):
        stored, is_new = statements.store(connection, statement, file, context.actor, timeout_seconds=limit)
    return ApiResponse(stored, 201 if is_new else 200, headers={"Location": f"/v1/statements/{stored['id']}"})


@routes.get("/v1/statements", scope="operations:read", responses={200: page_of(Statement)})
def list_statements(query: StatementQuery) -> ApiResponse:
    """List statements, newest first."""
    return list_response("statement", query, statements.list_newest, query.provider)


@routes.get("/v1/statements/<id>", scope="operations:read", responses={200: Statement})
def get_statement(id: UUID) -> ApiResponse:
    """Retrieve the summary of a statement."""
    with db.autocommit() as connection:
        return ApiResponse(statements.find(connection, id))
