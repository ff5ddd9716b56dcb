"""What the gateway needs of a provider."""

from typing import Protocol

from gateway.outcomes import Charge, Outcome, Refund


class Provider(Protocol):
    """A payment service provider. Calls are bounded in time, thread-safe, and never raise for an outcome."""

    @property
    def name(self) -> str:
        """The stable name that transactions and settlements carry."""
        ...

    def supports(self, currency: str) -> bool:
        """Whether this provider takes payments in `currency` (ISO 4217)."""
        ...

    def accepts(self, payment_method: str) -> bool:
        """Whether `payment_method` is one of its tokens, as far as can be told without asking it."""
        ...

    def charge(self, charge: Charge) -> Outcome:
        """Charge, at most once per `charge.idempotency_key` however often it is called."""
        ...

    def status(self, charge: Charge) -> Outcome:
        """What became of the attempts up to `charge.attempt`.

        `Unavailable` means that the provider has no such charge, so that charging is safe. A query that fails
        itself is `Unknown`.
        """
        ...

    def refund(self, refund: Refund) -> Outcome:
        """Give money back, at most once per `refund.idempotency_key` however often it is called."""
        ...

    def refund_status(self, refund: Refund) -> Outcome:
        """What became of the attempts up to `refund.attempt`; see `status`."""
        ...
