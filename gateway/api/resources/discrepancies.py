"""Discrepancies over HTTP, for operators: what reconciliations found, and what was made of it."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.paging import ListQuery, list_response
from gateway.api.http.parameters import IdParameter
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import Id, ResponseModel, Timestamp
from gateway.api.http.validation import RequestModel
from gateway.api.resources.dead_letters import NOTE_MAX_LENGTH
from gateway.domain.reconciliation import discrepancies
from gateway.domain.reconciliation.discrepancies import DiscrepancyFilter
from gateway.errors import AlreadyResolved
from gateway.models.reconciliation import DISCREPANCY_KINDS, RESOLUTIONS
from gateway.states import DiscrepancyStatus

Kind = Literal[DISCREPANCY_KINDS]  # type: ignore[valid-type]  # the model's values
Resolution = Literal[RESOLUTIONS]  # type: ignore[valid-type]

Amount = Annotated[int | None, Field(description="In the currency's minor unit")]

routes = Routes("Reconciliation")


class Discrepancy(ResponseModel):
    """A disagreement between records. Found again, it is the same object, with a later `last_run_id`.

    A resolved one is open again when a later run finds it changed.
    """

    id: Id
    object: Literal["discrepancy"]
    kind: Kind
    status: Literal["open", "resolved"]
    subject_id: Annotated[Id, Field(description="What disagrees: a transaction, settlement or refund, as `kind` says")]
    transaction_id: Id | None
    settlement_id: Id | None
    currency: str | None
    expected_amount: Amount
    actual_amount: Amount
    detail: Annotated[str, Field(examples=["The transaction is for 1005, its settlement for 1000."])]
    first_run_id: Id
    last_run_id: Id
    first_seen_at: Timestamp
    last_seen_at: Timestamp
    resolution: Resolution | None
    note: str | None
    resolved_by: Annotated[str | None, Field(examples=["user:0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"])]
    resolved_at: Timestamp | None


class DiscrepancyPage(ResponseModel):
    """Discrepancies, newest first."""

    data: list[Discrepancy]
    next_cursor: str | None


class DiscrepancyQuery(ListQuery):
    """Which discrepancies to list."""

    kind: Kind | None = None
    status: DiscrepancyStatus | None = None
    transaction_id: IdParameter | None = None


class ResolutionNote(RequestModel):
    """What was made of a discrepancy.

    `corrected`: the records agree now, or will. `accepted`: they do not, and that is left as it is. `false_alarm`:
    nothing was wrong. `other`: as the note says.
    """

    resolution: Resolution
    note: Annotated[str | None, Field(max_length=NOTE_MAX_LENGTH, examples=["Refunded by hand."])] = None


def page_of(query: DiscrepancyQuery, run_id: Any = None) -> ApiResponse:
    """One page of those that `query` wants, all or those that a run found."""
    wanted = DiscrepancyFilter(query.kind, query.status, query.transaction_id, run_id)
    return list_response("discrepancy", query, discrepancies.list_newest, wanted)


@routes.get("/v1/discrepancies", scope="operations:read", responses={200: DiscrepancyPage})
def list_discrepancies(query: DiscrepancyQuery) -> ApiResponse:
    """List discrepancies, newest first."""
    return page_of(query)


@routes.get("/v1/discrepancies/<id>", scope="operations:read", responses={200: Discrepancy})
def get_discrepancy(id: UUID) -> ApiResponse:
    """Read a discrepancy."""
    with db.autocommit() as connection:
        return ApiResponse(discrepancies.find(connection, id))


@routes.post(
    "/v1/discrepancies/<id>/resolve",
    scope="operations:write",
    responses={200: Discrepancy},
    errors=(AlreadyResolved,),
)
def resolve_discrepancy(context: RequestContext, id: UUID, body: ResolutionNote) -> ApiResponse:
    """Note what was made of a discrepancy."""
    with db.begin() as connection:
        return ApiResponse(discrepancies.resolve(connection, id, body.resolution, body.note, context.actor))
