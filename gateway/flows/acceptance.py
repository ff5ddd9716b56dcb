"""Accept payments: store those that come at the same time in one statement and one commit."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.exc import DataError, IntegrityError

from gateway import db
from gateway.domain.payments import transactions
from gateway.domain.payments.transactions import Acceptance, NewTransaction
from gateway.domain.shared.idempotency import IdempotencyKey, IdempotentResponse
from gateway.errors import DatabaseUnavailable, IdempotencyInProgress
from gateway.flows.group_commit import GroupCommit
from gateway.telemetry import TRANSACTIONS_CREATED

GROUP_MAX = 50
STORE_TRIES = 2
"""The second try is for a payment whose time was wrong; see `transactions.repeat`."""


def accept(merchant_id: UUID, new: NewTransaction, request_id: str, key: IdempotencyKey | None) -> IdempotentResponse:
    """Store a payment and return the response to it, or the first response if `key` was used before.

    Raises:
        IdempotencyKeyReused: the key was used with a different request.
        IdempotencyInProgress: the first request with the key has not ended yet.
        DatabaseUnavailable: the database's time cannot be determined.
    """
    for _ in range(STORE_TRIES):
        acceptance = Acceptance.of(merchant_id, new, request_id, key)
        if _group_commit.commit(acceptance):
            TRANSACTIONS_CREATED.labels(new.currency).inc()
            return IdempotentResponse(acceptance.response, replayed=False)
        with db.autocommit() as connection:
            first = transactions.repeat(connection, acceptance)
        if first is not None:
            return IdempotentResponse(first, replayed=True)
        db.measure_time()
    raise DatabaseUnavailable("The database's time cannot be determined.")


def _store(acceptances: Sequence[Acceptance]) -> list[bool]:
    with db.autocommit() as connection:
        return transactions.store(connection, acceptances)


_group_commit = GroupCommit(_store, max_items=GROUP_MAX, separating=(IdempotencyInProgress, IntegrityError, DataError))
