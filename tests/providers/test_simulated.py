"""The simulated provider has the outcomes that docs/testing.md lists."""

from uuid import UUID

import pytest

from gateway.outcomes import Approved, Charge, Declined, Outcome, Unavailable, Unknown
from gateway.providers.simulated import REFUND_TOKENS, TEST_TOKENS, SimulatedProvider

pytestmark = pytest.mark.unit


TRANSACTION_ID = UUID("0199a0de-0000-7000-8000-000000000001")
DOCUMENTED = {
    "tok_approve", "tok_decline_insufficient_funds", "tok_decline_do_not_honor", "tok_decline_fraud",
    "tok_error_once", "tok_error_twice", "tok_error_thrice", "tok_error_always",
    "tok_timeout_charged", "tok_timeout_not_charged", "tok_slow",
}  # fmt: skip


def charge(token: str, attempt: int) -> Charge:
    return Charge(TRANSACTION_ID, 1_000, "USD", token, attempt)


def charged(token: str, attempt: int) -> Outcome:
    return SimulatedProvider().charge(charge(token, attempt))


def test_every_documented_token_is_known() -> None:
    assert TEST_TOKENS == DOCUMENTED | REFUND_TOKENS


@pytest.mark.parametrize("token", sorted(DOCUMENTED - {"tok_slow"}))
def test_the_same_attempt_always_has_the_same_outcome(token: str) -> None:
    for attempt in (1, 2, 3, 4):
        assert charged(token, attempt) == charged(token, attempt)


@pytest.mark.parametrize(("token", "errors"), [("tok_error_once", 1), ("tok_error_twice", 2), ("tok_error_thrice", 3)])
def test_an_error_token_fails_the_documented_number_of_times(token: str, errors: int) -> None:
    outcomes = [type(charged(token, attempt)) for attempt in range(1, errors + 2)]
    assert outcomes == [Unavailable] * errors + [Approved]


def test_error_always_fails_every_time() -> None:
    assert {type(charged("tok_error_always", attempt)) for attempt in range(1, 20)} == {Unavailable}


@pytest.mark.parametrize("token", [token for token in sorted(DOCUMENTED) if "decline" in token])
def test_declines_carry_a_code(token: str) -> None:
    outcome = charged(token, 1)
    assert isinstance(outcome, Declined)
    assert token == "tok_decline_fraud" or outcome.code in token


def test_a_status_query_finds_a_charge_whose_response_was_lost() -> None:
    assert isinstance(charged("tok_timeout_charged", 1), Unknown)
    assert isinstance(SimulatedProvider().status(charge("tok_timeout_charged", 1)), Approved)


def test_a_status_query_reports_a_timeout_without_a_charge() -> None:
    assert isinstance(charged("tok_timeout_not_charged", 1), Unknown)
    assert isinstance(SimulatedProvider().status(charge("tok_timeout_not_charged", 1)), Unavailable)
    assert isinstance(charged("tok_timeout_not_charged", 2), Approved)


def test_all_attempts_at_a_charge_have_one_reference() -> None:
    references = {charged("tok_approve", attempt) for attempt in (1, 2, 3)}
    references.add(SimulatedProvider().status(charge("tok_approve", 3)))
    assert len(references) == 1


def test_an_unknown_token_is_declined() -> None:
    assert isinstance(charged("tok_no_such_thing", 1), Declined)
