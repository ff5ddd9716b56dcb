"""The simulated provider, whose outcomes are chosen by test tokens (docs/testing.md).

It has no state. The outcome is a function of the charge or refund and the number of the attempt, so it is the same on
every worker and host, and a repeated call never charges or refunds twice. The payment method of the charge determines
the outcome of its refunds; charges with `REFUND_TOKENS` are approved.
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
TEST_TOKENS = frozenset(
    {"tok_approve", "tok_error_always", "tok_timeout_charged", "tok_timeout_not_charged", "tok_slow"}
    | _DECLINES.keys()
    | _ERRORS_BEFORE_APPROVAL.keys()
    | REFUND_TOKENS
)

_PROVIDER_ERROR = Unavailable("provider_error", "The provider responded with 503 before processing.")
_TIMEOUT = Unknown("provider_timeout", "The provider did not respond in time.")
_NO_SUCH_CHARGE = Unavailable("provider_timeout", "The provider did not respond in time and did not charge.")
_NO_SUCH_REFUND = Unavailable("provider_timeout", "The provider did not respond in time and did not refund.")
_REFUND_REFUSED = Declined("refund_refused", "The provider refused the refund.")


class SimulatedProvider:
    """A provider whose outcomes are determined by the payment method."""

    name = "simulated"

    def supports(self, currency: str) -> bool:
        """Return True: it supports every currency."""
        return bool(currency)

    def accepts(self, payment_method: str) -> bool:
        """See `gateway.providers.base.Provider`."""
        return payment_method in TEST_TOKENS or poison.is_poison(payment_method)

    def charge(self, charge: Charge) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        poison.apply(charge.payment_method)
        if charge.payment_method == "tok_slow":
            time.sleep(SLOW_SECONDS)
        outcome = self._charge_outcome(charge, charge.attempt)
        lost = charge.payment_method == "tok_timeout_charged" and charge.attempt == 1
        return _TIMEOUT if lost else outcome

    def status(self, charge: Charge) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        if poison.is_poison(charge.payment_method):
            return _NO_SUCH_CHARGE
        for attempt in range(1, charge.attempt + 1):
            outcome = self._charge_outcome(charge, attempt)
            if isinstance(outcome, Approved | Declined):
                return outcome
        return _NO_SUCH_CHARGE

    def refund(self, refund: Refund) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        outcome = self._refund_outcome(refund, refund.attempt)
        lost = refund.payment_method == "tok_refund_timeout_done" and refund.attempt == 1
        return _TIMEOUT if lost else outcome

    def refund_status(self, refund: Refund) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        for attempt in range(1, refund.attempt + 1):
            outcome = self._refund_outcome(refund, attempt)
            if isinstance(outcome, Approved | Declined):
                return outcome
        return _NO_SUCH_REFUND

    def _refund_outcome(self, refund: Refund, attempt: int) -> Outcome:
        """Return the outcome of an attempt at the provider, even if its response is lost."""
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

    def _charge_outcome(self, charge: Charge, attempt: int) -> Outcome:
        """Return the outcome of an attempt at the provider, even if its response is lost."""
        method = charge.payment_method
        if method in _DECLINES:
            return Declined(*_DECLINES[method])
        if method == "tok_error_always" or attempt <= _ERRORS_BEFORE_APPROVAL.get(method, 0):
            return _PROVIDER_ERROR
        if method == "tok_timeout_not_charged" and attempt == 1:
            return _TIMEOUT
        if method not in TEST_TOKENS:
            return Declined("invalid_payment_method", f"{method!r} is not a test token.")
        return Approved(f"sim_{charge.transaction_id.hex}")
