"""The two kinds of objects that are attempted at a provider: transactions, which are charged, and refunds."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.domain.shared.outbox import Topic
from gateway.states import RefundStatus, TransactionStatus


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """The tables and statuses of one kind, from which the SQL of both kinds is composed."""

    table: str
    attempts: str
    """The table of the attempts."""
    key: str
    """The column of `attempts` that references `table`."""
    open_status: str
    """The status in which attempts are made."""
    topics: Mapping[str, Topic]
    """The work to be enqueued next, by each unfinished status."""

    @property
    def unfinished(self) -> str:
        """Return the unfinished statuses as an SQL list."""
        return ", ".join(f"'{status}'" for status in self.topics)


TRANSACTIONS = Kind(
    table="transactions",
    attempts="charge_attempts",
    key="transaction_id",
    open_status=TransactionStatus.PROCESSING,
    topics={
        TransactionStatus.PENDING: Topic.TRANSACTION_CREATED,
        TransactionStatus.PROCESSING: Topic.SETTLEMENT_REQUESTED,
    },
)
REFUNDS = Kind(
    table="refunds",
    attempts="refund_attempts",
    key="refund_id",
    open_status=RefundStatus.PENDING,
    topics={RefundStatus.PENDING: Topic.REFUND_REQUESTED},
)
KINDS = (TRANSACTIONS, REFUNDS)
