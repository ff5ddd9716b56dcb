"""The configured providers, by name.

A transaction stays with the provider to which it was routed. Therefore every configured provider can be called, and
`PROVIDERS` only lists those of new payments, in order of preference.
"""

from collections.abc import Mapping
from functools import cache

from gateway.config import settings
from gateway.providers.base import Provider
from gateway.providers.sandbox import SandboxProvider
from gateway.providers.simulated import SimulatedProvider


@cache
def configured() -> Mapping[str, Provider]:
    """Return all providers that this process can call, by name."""
    config = settings()
    providers: list[Provider] = [SimulatedProvider()]
    if config.sandbox_acquirer_url is not None:
        providers.append(SandboxProvider(config.sandbox_acquirer_url, config.provider_timeout_seconds))
    return {provider.name: provider for provider in providers}


def provider(name: str) -> Provider:
    """Return the provider of this name, whether `PROVIDERS` lists it or not.

    Raises:
        LookupError: it is not configured in this process.
    """
    try:
        return configured()[name]
    except KeyError:
        raise LookupError(f"the provider {name!r} is not configured") from None


@cache
def preferred() -> tuple[Provider, ...]:
    """Return the providers to which new payments are routed, in order of preference."""
    return tuple(provider(name) for name in settings().providers)


def accepts(payment_method: str) -> bool:
    """Return whether a provider of new payments accepts this payment method."""
    return any(provider.accepts(payment_method) for provider in preferred())
