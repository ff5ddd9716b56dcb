"""Routing accepted transactions to providers."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.domain import routing
from gateway.errors import PermanentError
from gateway.providers import registry


class NoProvider(PermanentError):
    """No provider takes payments in this currency."""

    code = "no_provider"
    remedy = "Enable a provider for it in PROVIDERS, then replay the dead letter."


def _choose(currency: str) -> routing.Route:
    candidates = [provider.name for provider in registry.preferred() if provider.supports(currency)]
    if not candidates:
        raise NoProvider(f"no provider takes payments in {currency}")
    return routing.Route(candidates[0], f"first of {len(candidates)} that take {currency}")


def route(ids: Sequence[UUID]) -> routing.Routed:
    """Route each of `ids` that is pending, in one commit."""
    with db.autocommit() as connection:
        return routing.route(connection, ids, _choose)
