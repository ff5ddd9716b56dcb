"""Providers' settlement statements over HTTP, for operators."""

from typing import IO, Annotated, Any, Literal

from pydantic import Field

from gateway import db
from gateway.api.http.paging import Page, list_page
from gateway.api.http.parameters import Moment
from gateway.api.http.periods import refuse_unless_ordered
from gateway.api.http.routes import Call, Reply, Routes
from gateway.api.http.schemas import AnswerModel, Id, Time
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


class StatementTotals(AnswerModel):
    """What the lines of one currency add up to, in its minor unit."""

    charges: Annotated[int, Field(description="Lines")]
    charged: int
    refunds: Annotated[int, Field(description="Lines")]
    refunded: int
    fees: int


class Statement(AnswerModel):
    """What a provider says that it charged and gave back from a moment to a later one."""

    id: Id
    object: Literal["statement"]
    provider: str
    since: Annotated[Time, Field(alias="from")]
    until: Annotated[Time, Field(alias="to")]
    lines: int
    totals: Annotated[dict[str, StatementTotals], Field(description="By currency")]
    sha256: Annotated[str, Field(description="Of the file", examples=["9f86d081884c7d65" * 4])]
    reconciliation_id: Annotated[Id, Field(description="The reconciliation that the upload began")]
    uploaded_by: Annotated[str, Field(examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    created_at: Time


class StatementPage(AnswerModel):
    """Statements, newest first."""

    data: list[Statement]
    next_cursor: str | None


class StatementQuery(Page):
    """Which statements to list."""

    provider: ProviderName | None = None


class StatementUpload(QueryModel):
    """Whose statement it is, and what it covers."""

    provider: ProviderName
    since: Annotated[
        Moment | None, Field(alias="from", description="Default: the beginning of its first line's day in UTC")
    ] = None
    until: Annotated[
        Moment | None, Field(alias="to", description="Default: the end of its last line's day in UTC, or now")
    ] = None


@routes.post(
    "/v1/statements",
    scope="operations:write",
    upload=Upload("text/csv", STATEMENT_MAX_BYTES),
    answers={201: Statement, 200: Statement},
    errors=(InvalidStatement, TooManyJobs),
)
def upload_statement(call: Call, query: StatementUpload, upload: IO[bytes]) -> Reply:
    """Upload a provider's settlement statement, and have it compared with our records.

    The body is CSV (RFC 4180) of at most 10 MiB whose first line is
    `charge_id,idempotency_key,type,amount,fee,currency,time`: `charge_id` is the provider's reference,
    `idempotency_key` the id of the transaction or the refund, `type` is `charge` or `refund`, amounts are integers in
    the currency's minor unit, `time` is RFC 3339. When a line is not valid, nothing is stored, and `errors` names up to
    100 lines and columns, as in `/17/amount`. The statement should list all that happened from `from` to `to`: what it
    leaves out counts as missing. The same file again is answered with 200 and the first upload. A longer statement may
    be uploaded in parts.
    """
    refuse_unless_ordered(query.since, query.until)
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
        stored, is_new = statements.store(connection, statement, file, call.actor, timeout_seconds=limit)
    return Reply(stored, 201 if is_new else 200, headers={"Location": f"/v1/statements/{stored['id']}"})


@routes.get("/v1/statements", scope="operations:read", answers={200: StatementPage})
def list_statements(call: Call, query: StatementQuery) -> Reply:  # noqa: ARG001
    """List statements, newest first."""
    with db.autocommit() as connection:
        page = list_page(
            "statement",
            query,
            lambda before, limit: statements.list_newest(connection, query.provider, before, limit),
        )
    return Reply(page)


@routes.get("/v1/statements/<id>", scope="operations:read", answers={200: Statement})
def get_statement(call: Call, id: Any) -> Reply:  # noqa: ARG001
    """Read a statement's summary."""
    with db.autocommit() as connection:
        return Reply(statements.find(connection, id))
