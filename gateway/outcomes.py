"""What the gateway asks of a provider, and the four things that can come of it (architecture.md, rule 4).

`Approved` and `Declined` are final. `Unavailable` was never processed and is safe to try again. After `Unknown`
the provider may have done it: its status is queried with the same key before anything else happens.
"""

from dataclasses import dataclass
from uuid import UUID

ADAPTER_ERROR = "adapter_error"
"""The code of an attempt whose adapter raised: its message is of our own inside, and not for merchants."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge as a provider sees it; `idempotency_key` is the same for every attempt at it."""

    transaction_id: UUID
    amount: int
    currency: str
    payment_method: str
    attempt: int

    @property
    def id(self) -> UUID:
        """What the attempts at it are counted by."""
        return self.transaction_id

    @property
    def idempotency_key(self) -> str:
        """Derived from the transaction alone, so that no repetition can charge twice."""
        return str(self.transaction_id)


@dataclass(frozen=True, slots=True)
class Refund:
    """Money back from one charge, as a provider sees it. `charge_reference` is its own name for the charge.

    `payment_method` is the charge's; nobody but a sandbox needs it.
    """

    id: UUID
    charge_reference: str
    amount: int
    currency: str
    payment_method: str
    attempt: int

    @property
    def idempotency_key(self) -> str:
        """Derived from the refund alone, so that no repetition can refund twice."""
        return str(self.id)


Instruction = Charge | Refund


@dataclass(frozen=True, slots=True)
class Approved:
    """The provider did it; `reference` is its own name for the charge or the refund."""

    reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider refused for good; another attempt would be refused too."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The provider did not process the instruction: refused, unreachable, or an error before processing."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Sent, but no usable answer came: the provider may or may not have done it."""

    code: str
    message: str


Outcome = Approved | Declined | Unavailable | Unknown
