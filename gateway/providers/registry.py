"""The providers of this installation, by name.

A transaction stays with the provider that it was routed to. So every provider that is configured can be asked, and
`PROVIDERS` only says which ones get new payments, in order of preference.
"""

from collections.abc import Mapping
from functools import cache

from gateway.config import settings
from gateway.providers.base import Provider
from gateway.providers.sandbox import Sandbox
from gateway.providers.simulated import Simulated


@cache
def configured() -> Mapping[str, Provider]:
    """All providers that this process can call, by name."""
    config = settings()
    providers: list[Provider] = [Simulated()]
    if config.sandbox_acquirer_url is not None:
        providers.append(Sandbox(config.sandbox_acquirer_url, config.provider_timeout_seconds))
    return {provider.name: provider for provider in providers}


def provider(name: str) -> Provider:
    """The provider of this name, listed in `PROVIDERS` or not.

    Raises:
        LookupError: it is not configured in this process.
    """
    try:
        return configured()[name]
    except KeyError:
        raise LookupError(f"the provider {name!r} is not configured") from None


@cache
def preferred() -> tuple[Provider, ...]:
    """The providers that new payments are routed to, the preferred one first."""
    return tuple(provider(name) for name in settings().providers)


def accepts(payment_method: str) -> bool:
    """Whether a provider that gets new payments knows this payment method."""
    return any(provider.accepts(payment_method) for provider in preferred())
