"""The amount and the age of waiting work, for /metrics and for the limits of merchants."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Integer, bindparam, func, select

from gateway.domain.shared import outbox
from gateway.models.dead_letters import DeadLetter
from gateway.models.refunds import Refund
from gateway.models.transactions import Transaction
from gateway.states import UNFINISHED, DeadLetterStatus, RefundStatus, TransactionStatus


@dataclass(frozen=True, slots=True)
class Waiting:
    """The number of waiting objects, and the time of the oldest one."""

    count: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """All waiting work. `unfinished` has every unfinished status of transactions."""

    outbox: Waiting
    unfinished: dict[str, Waiting]
    refunds_pending: Waiting
    dead_letters_open: int


_UNFINISHED_OF = (
    select(Transaction.id)
    .where(
        Transaction.merchant_id == bindparam("merchant_id"),
        Transaction.status.in_([status.value for status in UNFINISHED]),
        Transaction.status != TransactionStatus.COMPLETED.value,  # the condition of the partial index
    )
    .order_by(Transaction.merchant_id, Transaction.status, Transaction.id)  # the order of that index, and of no other
    .limit(bindparam("maximum", type_=Integer))
)


def unfinished_of(connection: Connection, merchant_id: UUID, maximum: int) -> int:
    """Return the number of unfinished transactions of a merchant, or `maximum` if there are more."""
    counting = select(func.count()).select_from(_UNFINISHED_OF.subquery())
    return connection.execute(counting, {"merchant_id": merchant_id, "maximum": maximum}).scalar_one()


def read(connection: Connection) -> Backlog:
    """Return the waiting work. Each count reads an index or a table that contains only waiting work."""
    unfinished = dict.fromkeys(sorted(status.value for status in UNFINISHED), Waiting(0, None))
    rows = connection.execute(
        select(Transaction.status, func.count(), func.min(Transaction.created_at))
        .where(Transaction.status.in_([status.value for status in UNFINISHED]))
        .group_by(Transaction.status)
    )
    unfinished.update({status: Waiting(count, since) for status, count, since in rows})
    pending = select(func.count(), func.min(Refund.created_at)).where(Refund.status == RefundStatus.PENDING.value)
    open_letters = select(func.count()).where(DeadLetter.status == DeadLetterStatus.OPEN.value)
    return Backlog(
        outbox=Waiting(*outbox.backlog(connection)),
        unfinished=unfinished,
        refunds_pending=Waiting(*connection.execute(pending).one()),
        dead_letters_open=connection.execute(open_letters).scalar_one(),
    )
