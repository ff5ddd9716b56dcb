"""The faults of the acquirer: by payment method, and by a mode that applies to all calls.

Payment methods (docs/testing.md lists the first eleven):
    tok_approve                     approved
    tok_decline_insufficient_funds, tok_decline_do_not_honor, tok_decline_fraud
                                    declined
    tok_error_once, _twice, _thrice, _always
                                    503 before processing, on the first one, two, three or all calls with the same key
    tok_timeout_charged             charged, then the connection is dropped; a repetition gets a response
    tok_timeout_not_charged         the first call is dropped before charging, later ones get a response
    tok_slow                        approved after 2 s
    tok_late_2, tok_late_15         charged immediately, the first response comes after 2 or 15 s
    tok_error_after_charge          charged, then 500; a repetition gets a response
    tok_garbage                     charged, then a response that is not JSON; a repetition gets a response
    tok_wrong_amount                charged, the first response has another amount
    tok_hang                        not charged, no response
    tok_hang_charged                charged, no response to the first call
Any other payment method is declined (invalid_payment_method). These are approved, and fail when refunded:
    tok_refund_decline              422, the refund is refused permanently
    tok_refund_error_once, _always  503 before processing, on the first call or on all calls with the same key
    tok_refund_timeout_done         refunded, then the connection is dropped; a repetition gets a response
    tok_refund_timeout_not_done     the first call is dropped before refunding, later ones get a response

Modes (`PUT /control`); a fault hits each call with `probability`, drawn from a generator with `seed`:
    normal                          no fault
    slow                            charges, and responds after `late_ms`
    drop_before, drop_after         the connection is dropped before or after charging
    error_before, error_after       503 before, or 500 after charging
    garbage                         charges, and responds with something that is not JSON, or not even HTTP
    wrong_amount                    charges, and responds with another amount
    hang                            does not charge, does not respond
    refuse                          idle connections and the listening socket are closed for `seconds`, so that new
                                    connections are refused; then the mode becomes `normal`
    flap                            until the mode changes, alternately: `seconds` unavailable as after a crash (calls
                                    in progress are dropped), and `seconds` available
`calls` selects the calls: "writes" (the default: charges and refunds) or "all" (also the queries by key). In every mode
each such call takes `latency_ms` before it is processed (default: the start option). Fields that `PUT /control` omits
get their defaults. A mode takes precedence over the behaviour of the payment method.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LATENCY_MAX_MS = 600_000
UNAVAILABLE_MAX_SECONDS = 600


class Fault(StrEnum):
    """A fault of one call."""

    NONE = "normal"
    SLOW = "slow"
    DROP_BEFORE = "drop_before"
    DROP_AFTER = "drop_after"
    ERROR_BEFORE = "error_before"
    ERROR_AFTER = "error_after"
    GARBAGE = "garbage"
    WRONG_AMOUNT = "wrong_amount"
    HANG = "hang"
    HANG_AFTER = "hang_after"


class Control(BaseModel):
    """The body of `PUT /control`; see the module."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    mode: Literal[
        "normal",
        "slow",
        "drop_before",
        "drop_after",
        "error_before",
        "error_after",
        "garbage",
        "wrong_amount",
        "hang",
        "refuse",
        "flap",
    ] = "normal"
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    calls: Literal["writes", "all"] = "writes"
    latency_ms: Annotated[int, Field(ge=0, le=LATENCY_MAX_MS)] | None = None
    late_ms: Annotated[int, Field(ge=0, le=LATENCY_MAX_MS)] = 3_000
    seconds: Annotated[float, Field(gt=0, le=UNAVAILABLE_MAX_SECONDS)] = 2.0
    seed: int = 0

    @property
    def fault(self) -> Fault:
        """Return the fault of single calls; refuse and flap are faults of the whole process."""
        return Fault.NONE if self.mode in {"refuse", "flap"} else Fault(self.mode)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The result of a payment method, and the fault of its first `faulty_calls` calls with the same key."""

    decline_code: str | None = None
    fault: Fault = Fault.NONE
    faulty_calls: int = 1
    processing_seconds: float = 0
    late_seconds: float = 0


ALWAYS = 1_000_000_000

PAYMENT_METHODS = {
    "tok_approve": Behaviour(),
    "tok_decline_insufficient_funds": Behaviour("insufficient_funds"),
    "tok_decline_do_not_honor": Behaviour("do_not_honor"),
    "tok_decline_fraud": Behaviour("fraud_suspected"),
    "tok_error_once": Behaviour(fault=Fault.ERROR_BEFORE),
    "tok_error_twice": Behaviour(fault=Fault.ERROR_BEFORE, faulty_calls=2),
    "tok_error_thrice": Behaviour(fault=Fault.ERROR_BEFORE, faulty_calls=3),
    "tok_error_always": Behaviour(fault=Fault.ERROR_BEFORE, faulty_calls=ALWAYS),
    "tok_timeout_charged": Behaviour(fault=Fault.DROP_AFTER),
    "tok_timeout_not_charged": Behaviour(fault=Fault.DROP_BEFORE),
    "tok_slow": Behaviour(processing_seconds=2),
    "tok_late_2": Behaviour(fault=Fault.SLOW, late_seconds=2),
    "tok_late_15": Behaviour(fault=Fault.SLOW, late_seconds=15),
    "tok_error_after_charge": Behaviour(fault=Fault.ERROR_AFTER),
    "tok_garbage": Behaviour(fault=Fault.GARBAGE),
    "tok_wrong_amount": Behaviour(fault=Fault.WRONG_AMOUNT),
    "tok_hang": Behaviour(fault=Fault.HANG, faulty_calls=ALWAYS),
    "tok_hang_charged": Behaviour(fault=Fault.HANG_AFTER),
}
UNKNOWN_PAYMENT_METHOD = Behaviour("invalid_payment_method")

REFUNDS = {
    "tok_refund_decline": Behaviour("refund_refused"),
    "tok_refund_error_once": Behaviour(fault=Fault.ERROR_BEFORE),
    "tok_refund_error_always": Behaviour(fault=Fault.ERROR_BEFORE, faulty_calls=ALWAYS),
    "tok_refund_timeout_done": Behaviour(fault=Fault.DROP_AFTER),
    "tok_refund_timeout_not_done": Behaviour(fault=Fault.DROP_BEFORE),
}
"""The behaviour of refunds by the payment method of their charge. Refunds of other methods succeed."""
PAYMENT_METHODS |= dict.fromkeys(REFUNDS, Behaviour())
