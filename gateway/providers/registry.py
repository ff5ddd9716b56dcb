"""The providers that payments can be routed to, in order of preference."""

from gateway.providers.base import Provider
from gateway.providers.simulated import Simulated

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (Simulated(),)}
