"""The interface of a provider adapter."""

from typing import Protocol

from gateway.outcomes import Charge, Outcome, Refund


class Provider(Protocol):
    """A payment service provider. Calls have a time limit, are thread-safe, and return outcomes instead of raising."""

    @property
    def name(self) -> str:
        """Return the stable name that transactions and settlements store."""
        ...

    def supports(self, currency: str) -> bool:
        """Return whether this provider processes payments in `currency` (ISO 4217)."""
        ...

    def accepts(self, payment_method: str) -> bool:
        """Return whether `payment_method` may be one of its tokens, without a call."""
        ...

    def charge(self, charge: Charge) -> Outcome:
        """Charge at most once per `charge.idempotency_key`, however often it is called."""
        ...

    def status(self, charge: Charge) -> Outcome:
        """Query the outcome of the attempts up to `charge.attempt`.

        `Unavailable` means that the provider has no such charge, so charging is safe. If the query itself fails, the
        outcome is `Unknown`.
        """
        ...

    def refund(self, refund: Refund) -> Outcome:
        """Refund at most once per `refund.idempotency_key`, however often it is called."""
        ...

    def refund_status(self, refund: Refund) -> Outcome:
        """Query the outcome of the attempts up to `refund.attempt`; see `status`."""
        ...
