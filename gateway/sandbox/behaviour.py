"""How the acquirer misbehaves: by payment method, and at run time for everything at once.

Payment methods (the first eleven are those of the gateway's API description):
    tok_approve                     approved
    tok_decline_insufficient_funds, tok_decline_do_not_honor, tok_decline_fraud
                                    declined
    tok_error_once, _twice, _thrice, _always
                                    503 before processing, on so many calls with the same key
    tok_timeout_charged             charged, then the connection is dropped; a repeat is answered
    tok_timeout_not_charged         the first call is dropped before charging, later ones are answered
    tok_slow                        approved after 2 s
    tok_late_2, tok_late_15         charged at once, the first call answered after 2 or 15 s
    tok_error_after_charge          charged, then 500; a repeat is answered
    tok_garbage                     charged, then an answer that is no JSON; a repeat is answered
    tok_wrong_amount                charged, the first answer names another amount
    tok_hang                        never charged, never answered
    tok_hang_charged                charged, the first call never answered
Any other payment method is declined (invalid_payment_method). These are approved, and misbehave when refunded:
    tok_refund_decline              422, nothing is ever given back
    tok_refund_error_once, _always  503 before processing, on so many calls with the same key
    tok_refund_timeout_done         refunded, then the connection is dropped; a repeat is answered
    tok_refund_timeout_not_done     the first call is dropped before refunding, later ones are answered

Modes (`PUT /control`); each call is hit with `probability`, drawn from a generator with `seed`:
    normal                          none of these
    slow                            charges, and answers after `late_ms`
    drop_before, drop_after         the connection is cut before or after charging
    error_before, error_after       503 before, or 500 after charging
    garbage                         charges, and answers what is no JSON, or not even HTTP
    wrong_amount                    charges, and names another amount
    hang                            never charges, never answers
    refuse                          idle connections and the listening socket are closed, so that connects are refused,
                                    for `seconds`; then it is `normal` again by itself
    flap                            until the mode changes: `seconds` away, as if it had crashed (calls in hand are cut
                                    off), and `seconds` there
`calls` says what is hit: "writes" (the default: charges and refunds) or "all" (the queries by key too). Whatever the
mode, each such call takes `latency_ms` before it is processed (default: the start option). What is left out of
`PUT /control` takes its default. A mode comes before the payment method's own behaviour.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LATENCY_MAX_MS = 600_000
AWAY_MAX_SECONDS = 600


class Fault(StrEnum):
    """What can go wrong with one call."""

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
    """What `PUT /control` sets; see the module."""

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
    seconds: Annotated[float, Field(gt=0, le=AWAY_MAX_SECONDS)] = 2.0
    seed: int = 0

    @property
    def fault(self) -> Fault:
        """The fault of a call that is hit; refuse and flap are faults of the whole process."""
        return Fault.NONE if self.mode in {"refuse", "flap"} else Fault(self.mode)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One payment method: its result, and what goes wrong on the first `faulty_calls` calls with the same key."""

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
"""How refunds behave, by the payment method of their charge; those of any other one succeed."""
PAYMENT_METHODS |= dict.fromkeys(REFUNDS, Behaviour())
