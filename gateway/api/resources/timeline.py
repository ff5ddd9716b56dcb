"""The timeline of a transaction over HTTP."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from gateway import db
from gateway.api.http.routes import ApiResponse, RequestContext, Routes
from gateway.api.http.schemas import ResponseModel, Timestamp
from gateway.domain.payments import timeline
from gateway.domain.payments.timeline import EntryType

_DETAILS = """What is known of it, by `type`:

| `type` | members |
| --- | --- |
| `transaction.created` | `amount`, `currency` |
| `transaction.routed` | `provider`, `reason` |
| `attempt.started` | `number`, `provider`, `delay_ms` since the attempt before it ended |
| `attempt.finished` | `number`, `outcome`, `code`, `message`, `duration_ms` |
| `transaction.completed` | `attempts` |
| `settlement.completed` | `settlement_id`, `amount`, `fee`, `net` |
| `transaction.dead_lettered` | `reason`, `attempts` |
| `transaction.replayed`, `transaction.discarded` | `by` |
| `transaction.failed` | `code`, `message`, `category` |
| `transaction.canceled` | |
| `refund.requested` | `refund_id`, `amount`, `reason` |
| `refund.…` | `refund_id`, and the members of the transaction's entry of that name |
| `webhook.…` | `event`, `event_id`, `endpoint_id`; after the first attempt `attempts`, `response_status` |

An `outcome` is `approved`, `declined`, `unavailable` or `unknown`.
Members without a value are null. More types and members may be added."""

routes = Routes("Transactions")


class TimelineEntry(ResponseModel):
    """One thing that happened to a transaction."""

    at: Timestamp
    type: Literal[tuple(str(kind) for kind in EntryType)]  # type: ignore[valid-type]  # the enum's values
    detail: Annotated[dict[str, Any], Field(description=_DETAILS)]


class Timeline(ResponseModel):
    """Everything that happened to a transaction, oldest first: the first 1,000 entries."""

    data: list[TimelineEntry]


@routes.get("/v1/transactions/<id>/timeline", scope="transactions:read", responses={200: Timeline})
def get_timeline(context: RequestContext, id: UUID) -> ApiResponse:
    """Read what happened to a transaction, oldest first."""
    with db.autocommit() as connection:
        return ApiResponse({"data": timeline.of_transaction(connection, context.merchant_id, id)})
