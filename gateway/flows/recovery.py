"""Looking after calls that went on in the background, once their leases are over."""

from collections.abc import Sequence
from uuid import UUID

from gateway import db
from gateway.domain import recovery
from gateway.domain.recovery import Unfinished


def unfinished_transactions(ids: Sequence[UUID]) -> Unfinished:
    """Find those of `ids` that are still in a worker's hands, or were when it died."""
    with db.autocommit() as connection:
        return recovery.unfinished_transactions(connection, ids)


def unfinished_refunds(ids: Sequence[UUID]) -> Unfinished:
    """Find those of `ids` that are still in a worker's hands, or were when it died."""
    with db.autocommit() as connection:
        return recovery.unfinished_refunds(connection, ids)
