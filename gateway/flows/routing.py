"""Routing accepted transactions to providers."""

from collections.abc import Mapping, Sequence
from functools import cache
from uuid import UUID

from gateway import db
from gateway.domain import routing
from gateway.domain.routing import Route
from gateway.money import minor_unit_exponents
from gateway.providers import registry


@cache
def _routes() -> Mapping[str, Route]:
    """Where payments in each currency go; those that no provider takes are not in it."""
    takers = {
        currency: [provider.name for provider in registry.preferred() if provider.supports(currency)]
        for currency in minor_unit_exponents()
    }
    return {
        currency: Route(names[0], f"first of {len(names)} that take {currency}")
        for currency, names in takers.items()
        if names
    }


def route(ids: Sequence[UUID]) -> routing.Routed:
    """Route each of `ids` that is pending, in one commit."""
    with db.autocommit() as connection:
        return routing.route(connection, ids, _routes())
