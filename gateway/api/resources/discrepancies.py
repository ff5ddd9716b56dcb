"""Discrepancies that reconciliations have found, and their resolution, for operators."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp, page_of
from gateway.api.http.validation import RequestModel
from gateway.api.resources.dead_letters import NOTE_MAX_LENGTH
from gateway.domain.reconciliation import discrepancies
from gateway.domain.reconciliation.discrepancies import DiscrepancyFilter
from gateway.errors import AlreadyResolved
from gateway.models.reconciliation import DISCREPANCY_KINDS, RESOLUTIONS
from gateway.states import DiscrepancyStatus

Kind = Literal[DISCREPANCY_KINDS]  # type: ignore[valid-type]  # the model's values
Resolution = Literal[RESOLUTIONS]  # type: ignore[valid-type]

routes = Routes("Reconciliation")


class Discrepancy(ResponseModel):
    """A disagreement between two records.

    When a later reconciliation finds it again, it stays the same object, with a new `last_run_id`. A resolved one is
    open again when a later reconciliation finds that it has changed.
    """

    id: Id
    object: Literal["discrepancy"]
    kind: Kind
    status: DiscrepancyStatus
    subject_id: Annotated[
        Id,
        Field(
            description="The object that is in disagreement: a transaction, settlement or refund, according to `kind`"
        ),
    ]
    transaction_id: Id | None
    settlement_id: Id | None
    currency: str | None
    expected_amount: Annotated[int | None, Field(description="The expected amount, in the currency's minor unit")]
    actual_amount: Annotated[int | None, Field(description="The amount found, in the currency's minor unit")]
    detail: Annotated[
        str,
        Field(
            description="The disagreement in words",
            examples=["The transaction is for 1005, its settlement for 1000."],
        ),
    ]
    first_run_id: Annotated[Id, Field(description="The reconciliation that found it first")]
    last_run_id: Annotated[Id, Field(description="The latest reconciliation that found it")]
    first_seen_at: Timestamp
    last_seen_at: Timestamp
    resolution: Resolution | None
    note: str | None
    resolved_by: Annotated[str | None, Field(examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    resolved_at: Timestamp | None


class DiscrepancyQuery(ListQuery):
    """Filters of discrepancies."""

    kind: Kind | None = None
    status: DiscrepancyStatus | None = None
    transaction_id: IdParameter | None = None


class DiscrepancyResolution(RequestModel):
    """The resolution of a discrepancy.

    `corrected`: the records agree now, or will. `accepted`: the disagreement is known and remains. `false_alarm`: the
    records were correct. `other`: see the note.
    """

    resolution: Resolution
    note: Annotated[str | None, Field(max_length=NOTE_MAX_LENGTH, examples=["Refunded manually."])] = None


def list_matching(query: DiscrepancyQuery, run_id: UUID | None = None) -> ApiResponse:
    """List the discrepancies that match `query`, of all reconciliations or of one."""
    return list_response(
        "discrepancy", query, discrepancies.list_newest, DiscrepancyFilter(**query.filters(), run_id=run_id)
    )


@routes.get("/v1/discrepancies", scope="operations:read", responses={200: page_of(Discrepancy)})
def list_discrepancies(query: DiscrepancyQuery) -> ApiResponse:
    """List discrepancies, newest first."""
    return list_matching(query)


@routes.get("/v1/discrepancies/<id>", scope="operations:read", responses={200: Discrepancy})
def get_discrepancy(id: UUID) -> ApiResponse:
    """Retrieve a discrepancy."""
    with db.autocommit() as connection:
        return ApiResponse(discrepancies.find(connection, id))


@routes.post(
    "/v1/discrepancies/<id>/resolve",
    scope="operations:write",
    responses={200: Discrepancy},
    errors=(AlreadyResolved,),
)
def resolve_discrepancy(context: RequestContext, id: UUID, body: DiscrepancyResolution) -> ApiResponse:
    """Resolve a discrepancy. This records the decision, and changes no other object."""
    with db.begin() as connection:
        return ApiResponse(discrepancies.resolve(connection, id, body.resolution, body.note, context.actor))
