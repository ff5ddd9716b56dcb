"""The sandbox provider (api.md, Sandbox tokens).

It keeps no state: what it answers is a function of the charge or refund and the number of the attempt, so that any
worker on any host gives the same answer, and a repeated call can never charge or refund twice. How a refund ends is
chosen by the payment method of its charge: `REFUND_TOKENS` are approved as charges.
"""

import time

from gateway.outcomes import Approved, Charge, Declined, Outcome, Refund, Unavailable, Unknown
from gateway.providers import poison

SLOW_SECONDS = 2.0

_DECLINES = {
    "tok_decline_insufficient_funds": ("insufficient_funds", "The account has insufficient funds."),
    "tok_decline_do_not_honor": ("do_not_honor", "The issuer declined without giving a reason."),
    "tok_decline_fraud": ("fraud_suspected", "The payment was declined as suspected fraud."),
}
_ERRORS_BEFORE_APPROVAL = {"tok_error_once": 1, "tok_error_twice": 2, "tok_error_thrice": 3}

REFUND_TOKENS = frozenset(
    {
        "tok_refund_decline",
        "tok_refund_error_once",
        "tok_refund_error_always",
        "tok_refund_timeout_done",
        "tok_refund_timeout_not_done",
    }
)
SANDBOX_TOKENS = frozenset(
    {"tok_approve", "tok_error_always", "tok_timeout_charged", "tok_timeout_not_charged", "tok_slow"}
    | _DECLINES.keys()
    | _ERRORS_BEFORE_APPROVAL.keys()
    | REFUND_TOKENS
)

_PROVIDER_ERROR = Unavailable("provider_error", "The provider answered 503 before processing.")
_TIMEOUT = Unknown("provider_timeout", "The provider did not answer in time.")
_NO_SUCH_CHARGE = Unavailable("provider_timeout", "The provider did not answer in time, and did not charge.")
_NO_SUCH_REFUND = Unavailable("provider_timeout", "The provider did not answer in time, and did not refund.")
_REFUND_REFUSED = Declined("refund_refused", "The provider refused to give the money back.")


class Simulated:
    """A provider whose outcomes the payment method chooses."""

    name = "simulated"

    def supports(self, currency: str) -> bool:
        """Every currency."""
        return bool(currency)

    def accepts(self, payment_method: str) -> bool:
        """See `gateway.providers.base.Provider`."""
        return payment_method in SANDBOX_TOKENS or poison.is_poison(payment_method)

    def charge(self, charge: Charge) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        poison.take(charge.payment_method)
        if charge.payment_method == "tok_slow":
            time.sleep(SLOW_SECONDS)
        answer = self._processed(charge, charge.attempt)
        lost = charge.payment_method == "tok_timeout_charged" and charge.attempt == 1
        return _TIMEOUT if lost else answer

    def status(self, charge: Charge) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        if poison.is_poison(charge.payment_method):
            return _NO_SUCH_CHARGE
        for attempt in range(1, charge.attempt + 1):
            answer = self._processed(charge, attempt)
            if isinstance(answer, Approved | Declined):
                return answer
        return _NO_SUCH_CHARGE

    def refund(self, refund: Refund) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        answer = self._refunded(refund, refund.attempt)
        lost = refund.payment_method == "tok_refund_timeout_done" and refund.attempt == 1
        return _TIMEOUT if lost else answer

    def refund_status(self, refund: Refund) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        for attempt in range(1, refund.attempt + 1):
            answer = self._refunded(refund, attempt)
            if isinstance(answer, Approved | Declined):
                return answer
        return _NO_SUCH_REFUND

    def _refunded(self, refund: Refund, attempt: int) -> Outcome:
        """What the provider itself knows of this attempt at a refund, whether or not its answer arrived."""
        match refund.payment_method:
            case "tok_refund_decline":
                return _REFUND_REFUSED
            case "tok_refund_error_always":
                return _PROVIDER_ERROR
            case "tok_refund_error_once" if attempt == 1:
                return _PROVIDER_ERROR
            case "tok_refund_timeout_not_done" if attempt == 1:
                return _TIMEOUT
        return Approved(f"sim_re_{refund.id.hex}")

    def _processed(self, charge: Charge, attempt: int) -> Outcome:
        """What the provider itself knows of this attempt, whether or not its answer arrived."""
        method = charge.payment_method
        if method in _DECLINES:
            return Declined(*_DECLINES[method])
        if method == "tok_error_always" or attempt <= _ERRORS_BEFORE_APPROVAL.get(method, 0):
            return _PROVIDER_ERROR
        if method == "tok_timeout_not_charged" and attempt == 1:
            return _TIMEOUT
        if method not in SANDBOX_TOKENS:
            return Declined("invalid_payment_method", f"{method!r} is not a sandbox token.")
        return Approved(f"sim_{charge.transaction_id.hex}")
