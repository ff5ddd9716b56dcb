"""Transactions and refunds in every state, and tables without constraints for rows that the gateway never writes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import text

from gateway.db import autocommit, begin
from gateway.domain.dead_letters import intake, resolution
from gateway.domain.dead_letters.intake import DeadMessage
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.domain.payments import refunding, requeueing, settling
from gateway.domain.payments.kinds import TRANSACTIONS
from gateway.domain.payments.transactions import ATTEMPT_LIMIT, NewTransaction
from gateway.domain.shared.idempotency import IdempotencyKey
from gateway.flows.refunds import refund
from gateway.flows.settlement import settle
from gateway.ids import new_id, utc_now
from tests.helpers.factories import accept, accept_payment, database_time, execute, make_merchant, route_payments
from tests.helpers.refunds import paid, refunded, request_refund

ACTOR = "operator@example.com"


def dead_lettered(merchant_id: UUID) -> tuple[UUID, UUID]:
    """Create a transaction without remaining attempts, and its open dead letter."""
    [id] = route_payments(merchant_id, "tok_error_always")
    for _ in range(ATTEMPT_LIMIT):
        settle([id], "task-1")
    now = database_time()
    with begin() as connection:
        message = DeadMessage(str(id), "settlement.requested", "rejected", "payments.settle", "[]", {}, now, (id,))
        intake.store(connection, [message])
        letters = resolution.list_newest(connection, DeadLetterFilter(status="open"), None, 100)
    return id, next(UUID(letter["id"]) for letter in letters if letter["transaction_id"] == str(id))


def replayed(merchant_id: UUID) -> UUID:
    """Create a dead-lettered transaction that an operator replayed."""
    id, letter_id = dead_lettered(merchant_id)
    with begin() as connection:
        resolution.replay(connection, letter_id, ACTOR)
    return id


def completed(merchant_id: UUID) -> UUID:
    """Create a settled transaction."""
    [id] = route_payments(merchant_id, "tok_approve")
    settle([id], "task-1")
    return id


def one_in_each_state() -> dict[str, UUID]:
    """Create a transaction and a refund in each state, by the name of the state, and dead letters without either."""
    merchant_id = make_merchant()
    ids = {"pending": accept_payment(merchant_id), "canceled": accept_payment(merchant_id)}
    execute("UPDATE transactions SET status = 'canceled' WHERE id = :id", id=ids["canceled"])
    ids["idempotent"] = _with_key(merchant_id)
    tokens = ("tok_approve", "tok_approve", "tok_approve", "tok_error_once", "tok_decline_fraud")
    names = ("processing", "leased", "requeued", "retried", "failed")
    ids |= zip(names, route_payments(merchant_id, *tokens), strict=True)
    settle([ids["retried"], ids["failed"]], "task-1")
    _make_old(ids["leased"], ids["requeued"])
    with autocommit() as connection:
        settling.claim(connection, [ids["leased"]], "task-1", lease_seconds=600)
    with begin() as connection:
        requeueing.requeue(connection, TRANSACTIONS, [ids["requeued"]])
    execute("DELETE FROM outbox WHERE subject_id <> :id", id=ids["pending"])
    _make_old(ids["pending"])
    ids |= {name: completed(merchant_id) for name in ("completed", "partially_refunded", "refunded")}
    refunded(ids["partially_refunded"], 1)
    refunded(ids["refunded"])
    ids |= {"without_fee": completed(make_merchant(0)), "without_net": completed(make_merchant(10_000))}
    ids["dead_lettered"], _ = dead_lettered(merchant_id)
    ids |= {name: replayed(merchant_id) for name in ("replayed", "replayed_and_completed")}
    execute("UPDATE transactions SET payment_method = 'tok_approve' WHERE id = :id", id=ids["replayed_and_completed"])
    settle([ids["replayed_and_completed"]], "task-2")
    ids["discarded"], letter_id = dead_lettered(merchant_id)
    with begin() as connection:
        resolution.discard(connection, letter_id, ACTOR, None)
        garbage = DeadMessage("garbage", "operations", "rejected", None, "", {}, utc_now())
        unknown = DeadMessage("unknown", "operations", "rejected", None, "", {}, utc_now(), (new_id(),))
        intake.store(connection, [garbage, unknown])
    return ids | _refunds(merchant_id)


def _refunds(merchant_id: UUID) -> dict[str, UUID]:
    """Create a refund in each state, by the name of the state."""
    tokens = ("tok_approve", "tok_refund_error_always", "tok_refund_decline")
    good, failing, refusing = (paid(token, merchant_id=merchant_id) for token in tokens)
    ids = {name: request_refund(good, 100) for name in ("pending_refund", "leased_refund", "retried_refund")}
    ids["completed_refund"] = refunded(good, 100)
    ids["failed_refund"] = request_refund(refusing, 100)
    refund([ids["failed_refund"]], "task-1")
    execute("UPDATE transactions SET payment_method = 'tok_refund_error_once' WHERE id = :id", id=good)
    refund([ids["retried_refund"]], "task-1")
    execute("DELETE FROM outbox WHERE subject_id IN (:a, :b)", a=ids["leased_refund"], b=ids["retried_refund"])
    execute("UPDATE refunds SET updated_at = now() - interval '1 hour' WHERE id <> :id", id=ids["retried_refund"])
    with autocommit() as connection:
        refunding.claim(connection, [ids["leased_refund"]], "task-1", lease_seconds=600)
    for name in ("dead_lettered_refund", "discarded_refund", "replayed_refund"):
        ids[name], letter_id = dead_lettered_refund(failing)
        with begin() as connection:
            if name == "discarded_refund":
                resolution.discard(connection, letter_id, ACTOR, None)
            elif name == "replayed_refund":
                resolution.replay(connection, letter_id, ACTOR)
    return ids


def dead_lettered_refund(transaction_id: UUID) -> tuple[UUID, UUID]:
    """Create a refund of 1.00 without remaining attempts, and its open dead letter."""
    id = request_refund(transaction_id, 100)
    for _ in range(ATTEMPT_LIMIT):
        refund([id], "task-1")
    now = database_time()
    with begin() as connection:
        message = DeadMessage(str(id), "refund.requested", "rejected", "payments.refund", "[]", {}, now, (), (id,))
        intake.store(connection, [message])
        letters = resolution.list_newest(connection, DeadLetterFilter(status="open"), None, 100)
    return id, next(UUID(letter["id"]) for letter in letters if letter["refund_id"] == str(id))


def _with_key(merchant_id: UUID) -> UUID:
    key = IdempotencyKey.of("key-1", "POST", "/v1/transactions", b"{}")
    with autocommit() as connection:
        response = accept(
            connection, merchant_id, NewTransaction(1_000, "EUR", "tok_approve"), "req-test", key
        ).response
    return UUID(str(response.location).rpartition("/")[2])


def _make_old(*ids: UUID) -> None:
    execute("UPDATE transactions SET updated_at = now() - interval '1 hour' WHERE id = ANY(:ids)", ids=list(ids))


@contextmanager
def without_constraints(*names: str) -> Iterator[None]:
    """Drop constraints and unique indexes within the block; then empty their tables and restore them."""
    with begin() as connection:
        dropped = [_drop(connection.execute(_DEFINITIONS, {"name": name}).one()) for name in names]
        for drop, _, _ in dropped:
            connection.execute(text(drop))
    try:
        yield
    finally:
        with begin() as connection:
            for _, table, restore in dropped:
                connection.execute(text(f"TRUNCATE {table} CASCADE"))
                connection.execute(text(restore))


def _drop(found: Sequence[str]) -> tuple[str, str, str]:
    name, table, constraint, index = found
    if constraint:
        drop, restore = f"DROP CONSTRAINT {name}", f"ADD CONSTRAINT {name} {constraint}"
        return f"ALTER TABLE {table} {drop}", table, f"ALTER TABLE {table} {restore}"
    return f"DROP INDEX {name}", table, index


_DEFINITIONS = text("""
    SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid), NULL FROM pg_constraint WHERE conname = :name
    UNION ALL
    SELECT indexname, tablename, NULL, indexdef FROM pg_indexes
    WHERE indexname = :name AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = :name)
""")
