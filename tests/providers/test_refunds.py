"""Outcomes of refunds at both providers, and responses of the acquirer to refunds."""

from uuid import uuid4

import pytest

from gateway.outcomes import Approved, Charge, Refund, Unavailable, Unknown
from gateway.providers.base import Provider
from gateway.providers.sandbox import SandboxProvider
from gateway.providers.simulated import REFUND_TOKENS, SimulatedProvider
from tests.providers.test_sandbox import MODES, TIMEOUT_SECONDS, kind, responding, response
from tests.sandbox.process import AcquirerProcess

pytestmark = pytest.mark.unit


EXPECTED = {
    "tok_approve": ["Approved"],
    "tok_refund_decline": ["Declined refund_refused"] * 2,
    "tok_refund_error_once": ["Unavailable", "Approved"],
    "tok_refund_error_always": ["Unavailable"] * 5,
    "tok_refund_timeout_done": ["Unknown", "Approved"],
    "tok_refund_timeout_not_done": ["Unknown", "Approved"],
}


def charged(provider: Provider, token: str = "tok_approve") -> str:
    """Charge 10.00 and return the provider's reference."""
    outcome = provider.charge(Charge(uuid4(), 1_000, "USD", token, 1))
    assert isinstance(outcome, Approved)
    return outcome.reference


def new_refund(provider: Provider, token: str = "tok_approve", amount: int = 400) -> Refund:
    return Refund(uuid4(), charged(provider, token), amount, "USD", token, 1)


def attempt(refund: Refund, number: int) -> Refund:
    return Refund(refund.id, refund.charge_reference, refund.amount, refund.currency, refund.payment_method, number)


@pytest.fixture(params=["simulated", "sandbox"])
def provider(request: pytest.FixtureRequest, acquirer: AcquirerProcess) -> Provider:
    """Return each provider in turn."""
    return SimulatedProvider() if request.param == "simulated" else SandboxProvider(acquirer.url, TIMEOUT_SECONDS)


def test_every_token_has_an_expected_outcome() -> None:
    assert set(EXPECTED) == REFUND_TOKENS | {"tok_approve"}


@pytest.mark.parametrize("token", sorted(EXPECTED))
def test_each_token_has_its_outcome(provider: Provider, token: str) -> None:
    refund = new_refund(provider, token)
    outcomes = [provider.refund(attempt(refund, number)) for number, _ in enumerate(EXPECTED[token], start=1)]
    compared = zip(map(kind, outcomes), EXPECTED[token], strict=True)
    assert all(found.startswith(expected) for found, expected in compared), outcomes


def test_a_repeated_refund_has_one_reference(provider: Provider) -> None:
    refund = new_refund(provider)
    first = provider.refund(refund)
    assert provider.refund(attempt(refund, 2)) == first == provider.refund_status(attempt(refund, 2))


@pytest.mark.parametrize(
    ("token", "status"), [("tok_refund_timeout_done", Approved), ("tok_refund_timeout_not_done", Unavailable)]
)
def test_a_status_query_resolves_a_lost_response(provider: Provider, token: str, status: type) -> None:
    refund = new_refund(provider, token)
    assert isinstance(provider.refund(refund), Unknown)
    assert isinstance(provider.refund_status(refund), status)


@pytest.mark.parametrize(
    ("mode", "refunded", "status", "refunds"),
    MODES,
)
def test_each_mode_has_its_outcomes_of_a_refund(
    acquirer: AcquirerProcess, mode: str, refunded: str, status: str, refunds: int
) -> None:
    provider = SandboxProvider(acquirer.url, TIMEOUT_SECONDS)
    refund = new_refund(provider)
    acquirer.control(mode, calls="all", late_ms=5_000)
    assert (kind(provider.refund(refund)), kind(provider.refund_status(refund))) == (refunded, status)
    acquirer.control("normal")
    assert kind(provider.refund_status(refund)) == ("Approved" if refunds else "Unavailable not_refunded")


def test_a_refund_above_the_refundable_amount_is_declined(acquirer: AcquirerProcess) -> None:
    provider = SandboxProvider(acquirer.url, TIMEOUT_SECONDS)
    refund = new_refund(provider, amount=1_001)
    assert kind(provider.refund(refund)) == "Declined amount_exceeds_charge"
    assert kind(provider.refund_status(refund)) == "Unavailable not_refunded"


def test_a_refund_of_an_unknown_charge_is_unknown_and_not_declined(acquirer: AcquirerProcess) -> None:
    refund = Refund(uuid4(), "ch_none", 1, "USD", "tok_approve", 1)
    assert kind(SandboxProvider(acquirer.url, TIMEOUT_SECONDS).refund(refund)) == "Unknown http_404"


UNUSABLE_RESPONSES = {
    "no refund": response("201 Created", '{"id": "re_1", "status": "succeeded"}'),
    "a refusal of something else": response("422 Unprocessable Entity", "<html>"),
    "another status": response(
        "200 OK",
        '{"id": "re_1", "idempotency_key": "k", "charge_id": "ch_1", "amount": 1, "currency": "USD",'
        ' "status": "pending"}',
    ),
    "another refund": response(
        "200 OK",
        '{"id": "re_1", "idempotency_key": "k", "charge_id": "ch_1", "amount": 1, "currency": "USD",'
        ' "status": "succeeded"}',
    ),
}


@pytest.mark.parametrize("name", sorted(UNUSABLE_RESPONSES))
def test_an_unusable_response_is_unknown(name: str) -> None:
    refund = Refund(uuid4(), "ch_1", 1, "USD", "tok_approve", 1)
    with responding(UNUSABLE_RESPONSES[name]) as url:
        provider = SandboxProvider(url, TIMEOUT_SECONDS)
        assert [type(provider.refund(refund)), type(provider.refund_status(refund))] == [Unknown, Unknown]
