"""Routing accepted transactions to providers."""

from collections.abc import Sequence
from functools import cache
from uuid import UUID

from gateway import db
from gateway.domain import routing
from gateway.domain.routing import Route
from gateway.money import minor_unit_exponents
from gateway.providers import registry
from gateway.providers.base import Provider


@cache
def _routes(providers: tuple[Provider, ...]) -> list[Route]:
    """Where payments go: to the first one of `providers` that takes their currency."""
    routes: dict[str, Route] = {}
    for currency in minor_unit_exponents():
        takers = [provider.name for provider in providers if provider.supports(currency)]
        if takers:
            reason = f"first of {len(takers)} that take the currency: {', '.join(takers)}"
            routes.setdefault(reason, Route(takers[0], reason, [])).currencies.append(currency)
    return list(routes.values())


def route(ids: Sequence[UUID]) -> routing.Routed:
    """Route each of `ids` that is pending, in one commit."""
    with db.autocommit() as connection:
        return routing.route(connection, ids, _routes(registry.preferred()))
