"""The states of each object and the allowed transitions.

Every UPDATE of a status names the expected status; tests/domain/test_states.py compares the statements with the
transitions.
"""

from enum import StrEnum


class TransactionStatus(StrEnum):
    """The status of a transaction (docs/architecture.md)."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"
    CANCELED = "canceled"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"


_S = TransactionStatus

TRANSACTION_TRANSITIONS: dict[TransactionStatus, frozenset[TransactionStatus]] = {
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
"""Transactions without an outcome, which workers process."""

SETTLED = frozenset({_S.COMPLETED, _S.PARTIALLY_REFUNDED, _S.REFUNDED})
"""Transactions whose money has moved. Each has exactly one settlement with its ledger entries."""


class DeadLetterStatus(StrEnum):
    """The status of a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class JobStatus(StrEnum):
    """The status of a bulk job on dead letters."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELED = "canceled"


class RunStatus(StrEnum):
    """The status of a reconciliation; a requested one is `pending` until it starts."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class DiscrepancyStatus(StrEnum):
    """The status of a discrepancy."""

    OPEN = "open"
    RESOLVED = "resolved"


class RefundStatus(StrEnum):
    """The status of a refund (docs/architecture.md)."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"


_F = RefundStatus

REFUND_TRANSITIONS: dict[RefundStatus, frozenset[RefundStatus]] = {
    _F.PENDING: frozenset({_F.COMPLETED, _F.FAILED, _F.DEAD_LETTERED}),
    _F.DEAD_LETTERED: frozenset({_F.PENDING, _F.FAILED}),
    _F.COMPLETED: frozenset(),
    _F.FAILED: frozenset(),
}


class EventType(StrEnum):
    """The types of events that are sent to merchants (docs/webhooks.md)."""

    TRANSACTION_COMPLETED = "transaction.completed"
    TRANSACTION_FAILED = "transaction.failed"
    TRANSACTION_DEAD_LETTERED = "transaction.dead_lettered"
    TRANSACTION_CANCELED = "transaction.canceled"
    REFUND_COMPLETED = "refund.completed"
    REFUND_FAILED = "refund.failed"
    SETTLEMENT_COMPLETED = "settlement.completed"


class EndpointStatus(StrEnum):
    """The status of a webhook endpoint; a disabled one gets no events."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class DeliveryStatus(StrEnum):
    """The status of the delivery of an event; `canceled` if the endpoint was disabled or deleted."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    EXHAUSTED = "exhausted"
    CANCELED = "canceled"


class AttemptOutcome(StrEnum):
    """The outcome of an attempt. An attempt without an outcome is in progress, or its worker died."""

    APPROVED = "approved"
    DECLINED = "declined"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"
