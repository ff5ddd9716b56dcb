"""The instructions to a provider, and their four outcomes (docs/architecture.md).

`Approved` and `Declined` are final. `Unavailable` means not processed, so another attempt is safe. After `Unknown` the
provider may have processed the instruction; its status is queried with the same key before anything else happens.
"""

from dataclasses import dataclass
from uuid import UUID

ADAPTER_ERROR = "adapter_error"
"""The code of an attempt whose adapter raised an exception. Its message is internal and not for merchants."""


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge at a provider. All attempts have the same `idempotency_key`."""

    transaction_id: UUID
    amount: int
    currency: str
    payment_method: str
    attempt: int

    @property
    def id(self) -> UUID:
        """Return the id by which attempts are counted."""
        return self.transaction_id

    @property
    def idempotency_key(self) -> str:
        """Return the id of the transaction, so that a repetition cannot charge twice."""
        return str(self.transaction_id)


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund at a provider. `charge_reference` is the provider's reference of the charge.

    `payment_method` is that of the charge; only test providers use it.
    """

    id: UUID
    charge_reference: str
    amount: int
    currency: str
    payment_method: str
    attempt: int

    @property
    def idempotency_key(self) -> str:
        """Return the id of the refund, so that a repetition cannot refund twice."""
        return str(self.id)


Instruction = Charge | Refund


@dataclass(frozen=True, slots=True)
class Approved:
    """The provider processed the instruction. `reference` is the provider's reference of the charge or refund."""

    reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider declined the instruction. This is final."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The provider did not process the instruction: it was unreachable or failed before processing."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The instruction was sent, but there was no usable response. The provider may have processed it."""

    code: str
    message: str


Outcome = Approved | Declined | Unavailable | Unknown
