"""The configured providers, those of new payments, and the payment methods that the API accepts."""

from typing import get_args

import pytest
from pydantic import ValidationError

from gateway.api.resources.transactions import TransactionRequest
from gateway.config import ConfigError, settings
from gateway.config.values import ProviderName
from gateway.providers import poison, registry
from gateway.providers.sandbox import TOKENS
from gateway.providers.simulated import TEST_TOKENS
from tests.sandbox.process import Configure

pytestmark = pytest.mark.unit


URL = "http://127.0.0.1:9"


def accepted_by_api(payment_method: str) -> bool:
    try:
        TransactionRequest(amount=1, currency="USD", payment_method=payment_method)
    except ValidationError:
        return False
    return True


def test_the_simulated_provider_is_the_default(configure: Configure) -> None:
    configure(PROVIDERS=None, SANDBOX_ACQUIRER_URL=None)
    assert [provider.name for provider in registry.preferred()] == ["simulated"]


def test_providers_keep_the_order_of_the_list(configure: Configure) -> None:
    configure(PROVIDERS="sandbox, simulated", SANDBOX_ACQUIRER_URL=URL)
    assert [provider.name for provider in registry.preferred()] == ["sandbox", "simulated"]


def test_every_name_that_the_settings_accept_is_a_provider(configure: Configure) -> None:
    configure(SANDBOX_ACQUIRER_URL=URL)
    assert set(registry.configured()) == set(get_args(ProviderName))


def test_a_configured_provider_can_be_called_without_being_listed(configure: Configure) -> None:
    configure(PROVIDERS="simulated", SANDBOX_ACQUIRER_URL=URL)
    assert registry.provider("sandbox").name == "sandbox"


def test_a_provider_that_is_not_configured_is_an_error(configure: Configure) -> None:
    configure(PROVIDERS="simulated", SANDBOX_ACQUIRER_URL=None)
    with pytest.raises(LookupError, match="sandbox"):
        registry.provider("sandbox")


@pytest.mark.parametrize(
    ("providers", "url", "named"),
    [
        ("sandbox", None, "SANDBOX_ACQUIRER_URL"),
        ("sandbox", "acquirer:9400", "SANDBOX_ACQUIRER_URL"),
        ("simulated,paypal", None, "PROVIDERS"),
        ("simulated,simulated", None, "PROVIDERS"),
        (",", None, "PROVIDERS"),
    ],
)
def test_an_invalid_setting_is_named(configure: Configure, providers: str, url: str | None, named: str) -> None:
    configure(PROVIDERS=providers, SANDBOX_ACQUIRER_URL=url)
    with pytest.raises(ConfigError, match=rf"\n  {named}: "):
        settings()


def test_the_api_accepts_payment_methods_of_the_acquirer_only_if_it_is_listed(configure: Configure) -> None:
    configure(PROVIDERS="simulated", SANDBOX_ACQUIRER_URL=URL)
    assert {token for token in TOKENS if accepted_by_api(token)} == TEST_TOKENS
    configure(PROVIDERS="sandbox")
    assert all(accepted_by_api(token) for token in TOKENS)


@pytest.mark.parametrize("token", [poison.KILL_WORKER, poison.HANG])
@pytest.mark.parametrize("provider", ["simulated", "sandbox"])
def test_the_api_accepts_test_only_payment_methods_only_in_test_stacks(
    configure: Configure, provider: str, token: str
) -> None:
    configure(PROVIDERS=provider, SANDBOX_ACQUIRER_URL=URL, GATEWAY_TEST_TOKENS=None)
    assert not accepted_by_api(token)
    configure(GATEWAY_TEST_TOKENS="0")
    assert not accepted_by_api(token)
    configure(GATEWAY_TEST_TOKENS="1")
    assert accepted_by_api(token)
