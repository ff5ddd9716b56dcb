"""The timeline of a transaction."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import ResponseModel, Timestamp
from gateway.domain.payments import timeline
from gateway.domain.payments.timeline import EntryType

_DETAILS = """Details of the entry. The members depend on `type`:

| `type` | Members |
| --- | --- |
| `transaction.created` | `amount`, `currency` |
| `transaction.routed` | `provider`, `reason` |
| `attempt.started` | `number`, `provider`, `delay_ms` since the end of the previous attempt |
| `attempt.finished` | `number`, `outcome`, `code`, `message`, `duration_ms` |
| `transaction.completed` | `attempts` |
| `settlement.completed` | `settlement_id`, `amount`, `fee`, `net` |
| `transaction.dead_lettered` | `reason`, `attempts` |
| `transaction.replayed`, `transaction.discarded` | `by` |
| `transaction.failed` | `code`, `message`, `category` |
| `transaction.canceled` | |
| `refund.requested` | `refund_id`, `amount`, `reason` |
| `refund.…` | `refund_id`, and the members of the entry of the transaction with the same name |
| `webhook.…` | `event`, `event_id`, `endpoint_id`; after the first attempt also `attempts`, `response_status` |

`outcome` is `approved`, `declined`, `unavailable` or `unknown`. Members without a value are null. Types and members may
be added in the future."""

routes = Routes("Transactions")


class TimelineEntry(ResponseModel):
    """One event in the life of a transaction."""

    at: Annotated[Timestamp, Field(description="When it happened")]
    type: Annotated[EntryType, Field(description="What happened")]
    detail: Annotated[dict[str, Any], Field(description=_DETAILS)]


class Timeline(ResponseModel):
    """The timeline of a transaction, oldest entry first: its first 1,000 entries."""

    data: Annotated[list[TimelineEntry], Field(description="The entries, oldest first")]


@routes.get("/v1/transactions/<id>/timeline", scope="transactions:read", responses={200: Timeline})
def get_timeline(context: RequestContext, id: UUID) -> ApiResponse:
    """Retrieve the timeline of a transaction: its status changes, attempts, refunds and webhooks, oldest first."""
    with db.autocommit() as connection:
        return ApiResponse({"data": timeline.of_transaction(connection, context.merchant_id, id)})
