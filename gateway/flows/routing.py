"""Route accepted transactions to providers."""

from collections.abc import Sequence
from functools import cache
from uuid import UUID

from gateway import db
from gateway.domain.payments import routing
from gateway.domain.payments.routing import Route
from gateway.money import minor_unit_exponents
from gateway.providers import registry
from gateway.providers.base import Provider


@cache
def _routes(providers: tuple[Provider, ...]) -> tuple[Route, ...]:
    """Return the routes to the first of `providers` that takes each currency."""
    currencies: dict[tuple[str, str], list[str]] = {}
    for currency in minor_unit_exponents():
        takers = [provider.name for provider in providers if provider.supports(currency)]
        if takers:
            reason = f"first of {len(takers)} that take the currency: {', '.join(takers)}"
            currencies.setdefault((takers[0], reason), []).append(currency)
    return tuple(Route(provider, reason, tuple(taken)) for (provider, reason), taken in currencies.items())


def route(ids: Sequence[UUID]) -> routing.Routed:
    """Route each of `ids` that is pending, in one commit."""
    with db.autocommit() as connection:
        return routing.route(connection, ids, _routes(registry.preferred()))
