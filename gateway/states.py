"""The allowed moves of each lifecycle, as data.

Every UPDATE of a status names the status that it expects; tests/domain/test_states.py holds them against the moves.
"""

from enum import StrEnum


class TransactionStatus(StrEnum):
    """Where a transaction stands (api.md, Transactions)."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"
    CANCELED = "canceled"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"


_S = TransactionStatus

TRANSACTION_MOVES: dict[TransactionStatus, frozenset[TransactionStatus]] = {
    _S.PENDING: frozenset({_S.PROCESSING, _S.CANCELED, _S.DEAD_LETTERED}),
    _S.PROCESSING: frozenset({_S.COMPLETED, _S.FAILED, _S.DEAD_LETTERED}),
    _S.DEAD_LETTERED: frozenset({_S.PENDING, _S.PROCESSING, _S.FAILED}),
    _S.COMPLETED: frozenset({_S.PARTIALLY_REFUNDED, _S.REFUNDED}),
    _S.PARTIALLY_REFUNDED: frozenset({_S.REFUNDED}),
    _S.REFUNDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELED: frozenset(),
}

UNFINISHED = frozenset({_S.PENDING, _S.PROCESSING})
"""A worker still owes these an outcome."""

SETTLED = frozenset({_S.COMPLETED, _S.PARTIALLY_REFUNDED, _S.REFUNDED})
"""Money has moved: each has exactly one settlement and its ledger entries."""


class DeadLetterStatus(StrEnum):
    """What an operator made of a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class JobStatus(StrEnum):
    """Where a job on many dead letters stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELED = "canceled"


class RunStatus(StrEnum):
    """Where a reconciliation stands; one that was asked for waits as `pending`."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class DiscrepancyStatus(StrEnum):
    """Whether an operator has dealt with a discrepancy."""

    OPEN = "open"
    RESOLVED = "resolved"


class RefundStatus(StrEnum):
    """Where a refund stands (api.md, Transactions)."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"


_F = RefundStatus

REFUND_MOVES: dict[RefundStatus, frozenset[RefundStatus]] = {
    _F.PENDING: frozenset({_F.COMPLETED, _F.FAILED, _F.DEAD_LETTERED}),
    _F.DEAD_LETTERED: frozenset({_F.PENDING, _F.FAILED}),
    _F.COMPLETED: frozenset(),
    _F.FAILED: frozenset(),
}


class EventType(StrEnum):
    """What merchants are told of (api.md, Webhooks to merchants)."""

    TRANSACTION_COMPLETED = "transaction.completed"
    TRANSACTION_FAILED = "transaction.failed"
    TRANSACTION_DEAD_LETTERED = "transaction.dead_lettered"
    TRANSACTION_CANCELED = "transaction.canceled"
    REFUND_COMPLETED = "refund.completed"
    REFUND_FAILED = "refund.failed"
    SETTLEMENT_COMPLETED = "settlement.completed"


class EndpointStatus(StrEnum):
    """Whether events are sent to a webhook endpoint."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class DeliveryStatus(StrEnum):
    """What became of sending one event to one endpoint; canceled: the endpoint was disabled or deleted meanwhile."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    EXHAUSTED = "exhausted"
    CANCELED = "canceled"


class AttemptOutcome(StrEnum):
    """What a provider call came to; an attempt without an outcome is under way or its worker died."""

    APPROVED = "approved"
    DECLINED = "declined"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"
