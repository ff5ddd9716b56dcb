"""Settlement of lists of transactions, on real PostgreSQL with the simulated provider."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import text

from gateway.config import settings
from gateway.db import autocommit, begin
from gateway.domain.payments import routing as domain_routing
from gateway.domain.payments import settling
from gateway.domain.payments.routing import NoProvider, Route
from gateway.flows import routing
from gateway.flows.provider_calls import ProcessedList
from gateway.flows.settlement import settle
from gateway.ids import new_id
from gateway.outcomes import Approved
from tests.helpers.factories import (
    accept_payment,
    count,
    execute,
    expire_lease,
    make_merchant,
    route_payments,
    status_of,
)
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


def ledger() -> dict[tuple[str, str], int]:
    query = "SELECT account, direction, sum(amount) AS total FROM ledger_entries GROUP BY account, direction"
    with begin() as connection:
        return {(row.account, row.direction): int(row.total) for row in connection.execute(text(query))}


def test_an_approved_payment_is_settled_with_its_fee_and_a_balanced_ledger() -> None:
    [id] = route_payments(make_merchant(fee_basis_points=290), "tok_approve")
    assert settle([id], "task-1").completed == [id]
    assert status_of(id) == "completed"
    assert ledger() == {
        ("provider_clearing", "debit"): 1_000,
        ("merchant_payable", "credit"): 971,
        ("fees", "credit"): 29,
    }


def test_a_merchant_without_fees_gets_no_empty_ledger_entry() -> None:
    [id] = route_payments(make_merchant(fee_basis_points=0), "tok_approve")
    settle([id], "task-1")
    assert ledger() == {("provider_clearing", "debit"): 1_000, ("merchant_payable", "credit"): 1_000}


def test_the_payments_of_a_list_have_independent_outcomes() -> None:
    tokens = ("tok_approve", "tok_decline_fraud", "tok_error_once", "tok_timeout_charged", "tok_timeout_not_charged")
    good, declined, failing, charged, not_charged = ids = route_payments(make_merchant(), *tokens)
    result = settle(ids, "task-1")
    assert set(result.completed) == {good, charged}
    assert set(result.retry) == {failing, not_charged}
    assert [status_of(id) for id in ids] == ["completed", "failed", "processing", "completed", "processing"]
    assert status_of(declined) == "failed"


def test_a_settled_transaction_is_not_charged_again() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    settle([id], "task-1")
    assert settle([id], "task-2").completed == [id]
    assert (count("settlements"), count("charge_attempts")) == (1, 1)


def test_attempts_are_limited_whatever_message_brings_the_work() -> None:
    [id] = route_payments(make_merchant(), "tok_error_always")
    results = [settle([id], f"task-{run}") for run in range(6)]
    assert [bool(result.retry) for result in results] == [True, True, True, False, False, False]
    assert [bool(result.dead) for result in results] == [False, False, False, True, True, True]
    assert count("charge_attempts") == 4


def test_a_declined_payment_is_final_after_one_attempt() -> None:
    [id] = route_payments(make_merchant(), "tok_decline_insufficient_funds")
    result = settle([id], "task-1")
    assert result == ProcessedList()
    assert settle([id], "task-2") == ProcessedList()
    assert count("charge_attempts") == 1


def test_an_id_without_a_transaction_is_dead_and_the_others_of_its_list_settle() -> None:
    [good] = route_payments(make_merchant(), "tok_approve")
    stranger = new_id()
    result = settle([stranger, good], "task-1")
    assert (result.completed, result.dead) == ([good], [stranger])


def test_a_transaction_that_is_not_routed_is_not_settled() -> None:
    id = accept_payment(make_merchant())
    assert settle([id], "task-1") == ProcessedList()
    assert status_of(id) == "pending"


def test_a_claim_with_a_lease_excludes_other_workers() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    with autocommit() as connection:
        assert settling.claim(connection, [id], "task-1", lease_seconds=30).claims
    result = settle([id], "task-2")
    assert (result.busy, result.completed) == ([id], [])


def test_a_busy_list_is_retried_when_its_last_lease_expires() -> None:
    sooner, later = ids = route_payments(make_merchant(), "tok_approve", "tok_approve")
    with autocommit() as connection:
        for id, lease in ((sooner, 7), (later, 20)):
            assert settling.claim(connection, [id], "task-1", lease_seconds=lease).claims
    assert 1 <= settle([sooner], "task-2").busy_seconds <= 7
    result = settle(ids, "task-2")
    assert sorted(result.busy) == sorted(ids)
    assert 8 <= result.busy_seconds <= 20


def test_the_list_of_a_dead_worker_is_split_and_each_status_queried_first() -> None:
    ids = route_payments(make_merchant(), "tok_timeout_charged", "tok_approve")
    with autocommit() as connection:
        settling.claim(connection, ids, "task-1", lease_seconds=30)
    expire_lease(ids)
    assert set(settle(ids, "task-1").interrupted) == set(ids)
    for id in ids:
        with autocommit() as connection:
            [claim] = settling.claim(connection, [id], "task-2", lease_seconds=30).claims
        assert claim.in_doubt
        expire_lease([id])
        assert settle([id], "task-3").completed == [id]
    assert count("charge_attempts", "code = 'worker_lost'") == 4
    assert count("settlements") == 2


def test_a_worker_that_dies_each_time_uses_up_the_attempts() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    for _ in range(4):
        with autocommit() as connection:
            assert settling.claim(connection, [id], "task-1", lease_seconds=30).claims
        expire_lease([id])
    assert settle([id], "task-1").dead == [id]


def test_a_late_outcome_after_another_worker_settled_changes_nothing() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    with autocommit() as connection:
        [orphaned] = settling.claim(connection, [id], "task-1", lease_seconds=30).claims
    expire_lease([id])
    settle([id], "task-2")
    with autocommit() as connection:
        assert settling.record(connection, [(orphaned, Approved("sim_other"))]) == []
    assert (count("settlements"), count("ledger_entries")) == (1, 3)


def test_many_workers_with_the_same_list_settle_each_once() -> None:
    ids = route_payments(make_merchant(), *["tok_approve"] * 30)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: settle(ids, str(uuid4())), range(8)))
    assert (count("settlements"), count("charge_attempts"), count("ledger_entries")) == (30, 30, 90)
    assert Counter(status_of(id) for id in ids) == {"completed": 30}


def test_a_slow_call_does_not_delay_the_others_of_its_list() -> None:
    slow, quick = ids = route_payments(make_merchant(), "tok_slow", "tok_approve")
    settle(ids, "task-1")
    with begin() as connection:
        query = "SELECT max(completed_at) - min(completed_at) > interval '1 second' FROM transactions"
        assert connection.execute(text(query)).scalar_one()
    assert (status_of(slow), status_of(quick)) == ("completed", "completed")


def test_an_exhausted_payment_gets_no_further_attempt() -> None:
    [id] = route_payments(make_merchant(), "tok_error_once")
    settle([id], "task-1")
    with begin() as connection:
        settling.exhaust(connection, [id], "ValueError: no such thing")
    assert settle([id], "task-1").dead == [id]


def test_an_adapter_that_raises_leaves_the_outcome_unknown_and_is_queried_before_the_next_charge() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    execute("UPDATE transactions SET provider = 'nowhere' WHERE id = :id", id=id)
    assert settle([id], "task-1").retry == [id]
    execute("UPDATE transactions SET provider = 'simulated' WHERE id = :id", id=id)
    with autocommit() as connection:
        [claim] = settling.claim(connection, [id], "task-2", settings().claim_lease_seconds).claims
    assert claim.in_doubt


def test_routing_twice_returns_the_same_ids_and_changes_nothing() -> None:
    merchant_id = make_merchant()
    ids = [accept_payment(merchant_id) for _ in range(3)]
    stranger = new_id()
    first = routing.route([*ids, stranger])
    assert (first.routed, first.nonexistent) == (ids, [stranger])
    assert routing.route(ids).routed == ids
    assert count("transactions", "routing_reason IS NOT NULL AND status = 'processing'") == 3


def test_a_transaction_that_two_workers_route_concurrently_is_returned_by_both() -> None:
    ids = [accept_payment(merchant_id) for merchant_id in [make_merchant()] for _ in range(20)]
    for _ in range(10):
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: routing.route(ids).routed, range(4)))
        assert results == [ids] * 4
        execute("UPDATE transactions SET status = 'pending', provider = NULL, routing_reason = NULL")


def test_a_payment_that_is_canceled_while_it_is_being_routed_stays_canceled() -> None:
    id = accept_payment(make_merchant())
    with ThreadPoolExecutor(1) as pool:
        with begin() as connection:
            connection.execute(text("UPDATE transactions SET status = 'canceled' WHERE id = :id"), {"id": id})
            routed = pool.submit(routing.route, [id])
            eventually(lambda: count("pg_locks", "NOT granted"), what="the route that waits for the cancellation")
        assert routed.result().routed == []
    assert status_of(id) == "canceled"


def test_a_currency_without_a_provider_is_named_and_the_other_payments_are_routed() -> None:
    merchant_id = make_merchant()
    ids = [accept_payment(merchant_id), accept_payment(merchant_id)]
    execute("UPDATE transactions SET currency = 'CHF' WHERE id = :id", id=ids[0])
    with autocommit() as connection, pytest.raises(NoProvider, match="CHF"):
        domain_routing.route(connection, ids, (Route("simulated", "first", ("USD",)),))
    assert [status_of(id) for id in ids] == ["pending", "processing"]


def test_routing_does_not_change_finished_transactions() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    settle([id], "task-1")
    assert routing.route([id]).routed == []
    assert status_of(id) == "completed"
