"""Check calls that continued in the background, once their leases have expired."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.domain.payments import recovery
from gateway.domain.payments.recovery import Unfinished

__all__ = ["Unfinished", "unfinished_refunds", "unfinished_transactions"]


def unfinished_transactions(ids: Sequence[UUID]) -> Unfinished:
    """Return the `ids` whose newest attempt has no outcome: a worker processes them, or died."""
    with db.autocommit() as connection:
        return recovery.unfinished_transactions(connection, ids)


def unfinished_refunds(ids: Sequence[UUID]) -> Unfinished:
    """Return the `ids` whose newest attempt has no outcome: a worker processes them, or died."""
    with db.autocommit() as connection:
        return recovery.unfinished_refunds(connection, ids)
