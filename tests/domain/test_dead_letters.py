"""Dead messages of payments: stored as dead letters, or requeued."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.db import autocommit, begin
from gateway.domain.dead_letters import resolution
from gateway.domain.dead_letters.intake import ALERTS_MAX, REQUEUE_LIMIT
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.domain.payments import requeueing, settling, transaction_queries
from gateway.domain.payments.kinds import TRANSACTIONS
from gateway.flows.settlement import settle
from gateway.ids import new_id
from tests.helpers.dead_letters import dead_message, exhausted_payment, open_letter, store
from tests.helpers.factories import (
    accept_payment,
    count,
    execute,
    expire_lease,
    make_merchant,
    route_payments,
    status_of,
)

pytestmark = pytest.mark.usefixtures("database")


def test_an_exhausted_payment_becomes_one_dead_letter_with_its_error_and_one_alert() -> None:
    id, letter_id = open_letter()
    with begin() as connection:
        letter = resolution.find(connection, letter_id)
    assert (status_of(id), letter["transaction_id"], letter["attempts"]) == ("dead_lettered", str(id), 4)
    assert "provider_error" in letter["exception"]
    assert (letter["queue"], letter["reason"], letter["status"]) == ("settlement.requested", "rejected", "open")
    assert count("alerts", "severity = 'error'") == 1


def failure_of(id: UUID) -> Any:
    with autocommit() as connection:
        merchant_id = connection.scalars(text("SELECT merchant_id FROM transactions WHERE id = :id"), {"id": id}).one()
        return transaction_queries.find(connection, merchant_id, id)["failure"]


def test_a_merchant_reads_why_a_payment_is_dead_until_it_is_replayed() -> None:
    id, letter_id = open_letter()
    why = failure_of(id)
    assert (why["code"], why["category"], why["retryable"]) == ("provider_error", "provider_error", True)
    with begin() as connection:
        resolution.replay(connection, letter_id, "operator@example.com")
    assert failure_of(id) is None
    with begin() as connection:
        event = connection.execute(text("SELECT snapshot FROM events WHERE type = 'transaction.dead_lettered'")).one()
    assert event.snapshot["failure"] == why


def test_an_internal_error_of_a_dead_payment_is_hidden_from_its_merchant() -> None:
    id = exhausted_payment()
    execute("UPDATE charge_attempts SET code = 'adapter_error', message = 'KeyError: secret'")
    execute("UPDATE transactions SET last_error = 'TypeError: inside'")
    store(dead_message(id))
    why = failure_of(id)
    assert (why["code"], why["category"]) == ("processing_error", "provider_error")
    assert "secret" not in str(why)
    assert "inside" not in str(why)


def test_a_payment_with_an_unknown_outcome_is_in_doubt_and_a_replay_queries_it_before_a_charge() -> None:
    id = exhausted_payment()
    execute("UPDATE charge_attempts SET outcome = 'unknown' WHERE number = 4")
    assert store(dead_message(id)).dead == [("settlement.requested", "in_doubt")]
    with begin() as connection:
        [letter] = resolution.list_newest(connection, DeadLetterFilter(reason="in_doubt"), None, 10)
        resolution.replay(connection, UUID(letter["id"]), "operator@example.com")
    with autocommit() as connection:
        [claim] = settling.claim(connection, [id], "task-2", lease_seconds=30).claims
    assert claim.in_doubt


def test_the_same_dead_message_delivered_twice_is_stored_once() -> None:
    id = exhausted_payment()
    assert len(store(dead_message(id)).dead) == 1
    assert store(dead_message(id)).dead == []
    assert (count("dead_letters"), count("alerts")) == (1, 1)


def test_each_id_of_a_dead_list_becomes_a_dead_letter_and_all_raise_one_alert() -> None:
    ids = [exhausted_payment() for _ in range(3)]
    assert len(store(dead_message(*ids)).dead) == 3
    assert (count("dead_letters"), count("alerts")) == (3, 1)


def test_work_that_died_without_an_attempt_is_requeued() -> None:
    merchant_id = make_merchant()
    pending = accept_payment(merchant_id)
    [routed] = route_payments(merchant_id, "tok_approve")
    execute("DELETE FROM outbox")
    assert store(dead_message(pending, routed, reason="expired")).requeued
    assert (status_of(pending), status_of(routed), count("dead_letters")) == ("pending", "processing", 0)
    assert count("outbox", "topic = 'transaction.created'") == 1
    assert count("outbox", "topic = 'settlement.requested'") == 1
    assert count("alerts", "severity = 'warning'") == 1


def test_work_that_was_requeued_too_often_is_dead() -> None:
    id = accept_payment(make_merchant())
    for number in range(REQUEUE_LIMIT):
        assert store(dead_message(id, key=f"task-{number}")).requeued == [id]
    assert len(store(dead_message(id, key="task-last")).dead) == 1
    assert status_of(id) == "dead_lettered"


def test_expired_work_is_always_requeued() -> None:
    id = accept_payment(make_merchant())
    for number in range(REQUEUE_LIMIT + 5):
        assert store(dead_message(id, key=f"task-{number}", reason="expired")).requeued == [id]
    assert (status_of(id), count("dead_letters")) == ("pending", 0)
    assert count("alerts") == 1, "one alert a minute says it"


def test_many_dead_letters_raise_a_limited_number_of_alerts_and_one_more() -> None:
    for number in range(ALERTS_MAX + 5):
        store(dead_message(key=f"garbage-{number}"))
    assert count("dead_letters") == ALERTS_MAX + 5
    assert count("alerts", "severity = 'error'") == ALERTS_MAX
    assert count("alerts", "severity = 'critical'") == 1


def test_a_dead_message_does_not_change_a_payment_that_a_worker_processes() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    with autocommit() as connection:
        settling.claim(connection, [id], "task-1", lease_seconds=30)
    assert store(dead_message(id)).ignored == [id]
    assert count("dead_letters") == 0


def test_a_dead_duplicate_of_settled_work_changes_nothing() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    settle([id], "task-1")
    assert store(dead_message(id)).ignored == [id]
    assert (status_of(id), count("dead_letters")) == ("completed", 0)


def test_a_message_that_names_no_transaction_is_stored() -> None:
    store(dead_message(key="garbage"), dead_message(new_id(), key="stranger"))
    assert count("dead_letters", "status = 'open'") == 2
    assert count("dead_letters", "exception = 'No transaction has this id.'") == 1


def test_the_sweep_finds_stuck_transactions_and_no_others() -> None:
    merchant_id = make_merchant()
    fresh, waiting = accept_payment(merchant_id), accept_payment(merchant_id)
    execute("DELETE FROM outbox WHERE subject_id <> :id", id=waiting)
    old, held, done = route_payments(merchant_id, "tok_approve", "tok_approve", "tok_approve")
    execute("DELETE FROM outbox WHERE subject_id = ANY(:ids)", ids=[old, held, done])
    settle([done], "task-1")
    with autocommit() as connection:
        settling.claim(connection, [held], "task-1", lease_seconds=30)
    execute("UPDATE transactions SET updated_at = now() - interval '1 hour' WHERE id <> :id", id=fresh)
    with begin() as connection:
        assert requeueing.stuck(connection, TRANSACTIONS, 60, 10) == [old]
        assert requeueing.requeue(connection, TRANSACTIONS, [old]) == [old]
    with begin() as connection:
        assert requeueing.stuck(connection, TRANSACTIONS, 60, 10) == []
    expire_lease([held])
    with begin() as connection:
        assert requeueing.stuck(connection, TRANSACTIONS, 60, 10) == [held]
