"""Lists of refunds, on real PostgreSQL with the simulated provider."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway.config import settings
from gateway.db import autocommit, begin
from gateway.domain.payments import refunding
from gateway.domain.payments.refunding import RefundClaim
from gateway.flows.provider_calls import ProcessedList
from gateway.flows.refunds import refund
from gateway.ids import new_id
from gateway.outcomes import Approved, Declined
from tests.helpers.factories import count, execute, make_merchant
from tests.helpers.refunds import expire_lease, paid, refund_amounts, request_refund, row
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


def entries_of(source_id: UUID) -> set[tuple[str, str, int]]:
    query = text("SELECT account, direction, amount FROM ledger_entries WHERE source_id = :id")
    with begin() as connection:
        return {(row.account, row.direction, row.amount) for row in connection.execute(query, {"id": source_id})}


def balance() -> tuple[int, int, int]:
    query = "SELECT sum(settled), sum(refunded), sum(fees) FROM balance_changes"
    with begin() as connection:
        settled, refunded, fees = connection.execute(text(query)).one()
    return int(settled), int(refunded), int(fees)


def events() -> list[tuple[str, UUID]]:
    query = "SELECT type, object_id FROM events WHERE type LIKE 'refund.%' ORDER BY id"
    with begin() as connection:
        return [(row.type, row.object_id) for row in connection.execute(text(query))]


def claim(id: UUID, task_id: str = "task-1") -> RefundClaim:
    with autocommit() as connection:
        [claimed] = refunding.claim(connection, [id], task_id, settings().claim_lease_seconds).claims
    return claimed


def test_a_full_refund_posts_the_exact_amount_and_keeps_the_fee() -> None:
    transaction_id = paid(amount=12_550)
    id = request_refund(transaction_id)
    assert refund([id], "task-1").completed == [id]
    assert refund_amounts(transaction_id) == ("refunded", 12_550, 0)
    assert entries_of(id) == {("merchant_payable", "debit", 12_550), ("provider_clearing", "credit", 12_550)}
    assert balance() == (12_550, 12_550, 364)
    done = row("refunds", id)
    assert (done.status, done.attempts, done.provider_reference) == ("completed", 1, f"sim_re_{id.hex}")
    assert events() == [("refund.completed", id)]


def test_partial_refunds_add_up_until_nothing_is_left() -> None:
    transaction_id = paid()
    for amount, expected in ((333, ("partially_refunded", 333, 0)), (1, ("partially_refunded", 334, 0))):
        assert refund([request_refund(transaction_id, amount)], "task-1").completed
        assert refund_amounts(transaction_id) == expected
    refund([request_refund(transaction_id)], "task-1")
    assert refund_amounts(transaction_id) == ("refunded", 1_000, 0)
    assert balance()[1] == 1_000


def test_a_list_may_contain_several_refunds_of_one_transaction() -> None:
    first, second, declined = paid(), paid(), paid("tok_refund_decline")
    ids = [
        request_refund(first, 100),
        request_refund(second),
        request_refund(first, 200),
        request_refund(declined, 400),
        request_refund(first, 700),
        request_refund(declined, 600),
    ]
    result = refund(ids, "task-1")
    assert set(result.completed) == {ids[0], ids[1], ids[2], ids[4]}
    assert [refund_amounts(id) for id in (first, second, declined)] == [
        ("refunded", 1_000, 0),
        ("refunded", 1_000, 0),
        ("completed", 0, 0),
    ]


def test_a_declined_refund_fails_and_releases_its_amount() -> None:
    transaction_id = paid("tok_refund_decline")
    id = request_refund(transaction_id, 400)
    assert refund([id], "task-1") == ProcessedList()
    assert refund_amounts(transaction_id) == ("completed", 0, 0)
    failed = row("refunds", id)
    assert (failed.status, failed.failure_code, failed.failure_category) == ("failed", "refund_refused", "declined")
    assert (entries_of(id), balance()[1]) == (set(), 0)
    assert events() == [("refund.failed", id)]
    assert refund([id], "task-2") == ProcessedList()
    assert count("refund_attempts") == 1


@pytest.mark.parametrize(
    ("token", "outcomes"),
    [
        ("tok_approve", ["approved"]),
        ("tok_refund_error_once", ["unavailable", "approved"]),
        ("tok_refund_timeout_done", ["approved"]),
        ("tok_refund_timeout_not_done", ["unavailable", "approved"]),
    ],
)
def test_each_token_is_refunded_once(token: str, outcomes: list[str]) -> None:
    transaction_id = paid(token)
    id = request_refund(transaction_id)
    for _ in outcomes[:-1]:
        assert refund([id], "task-1").retry == [id]
        assert refund_amounts(transaction_id) == ("completed", 0, 1_000)
    assert refund([id], "task-1").completed == [id]
    with begin() as connection:
        query = text("SELECT outcome FROM refund_attempts WHERE refund_id = :id ORDER BY number")
        assert list(connection.scalars(query, {"id": id})) == outcomes
    assert refund_amounts(transaction_id) == ("refunded", 1_000, 0)


def test_a_refund_that_no_provider_accepts_has_four_attempts() -> None:
    transaction_id = paid("tok_refund_error_always")
    id = request_refund(transaction_id)
    results = [refund([id], "task-1") for _ in range(5)]
    assert [(result.retry, result.dead) for result in results] == [([id], [])] * 3 + [([], [id])] * 2
    assert refund_amounts(transaction_id) == ("completed", 0, 1_000)
    assert count("refund_attempts") == 4


def test_an_id_without_a_refund_is_dead_and_the_others_of_its_list_are_refunded() -> None:
    stranger, good = new_id(), request_refund(paid())
    result = refund([stranger, good], "task-1")
    assert (result.completed, result.dead) == ([good], [stranger])


def test_a_claim_with_a_lease_excludes_other_workers() -> None:
    id = request_refund(paid())
    claim(id)
    assert refund([id], "task-2") == ProcessedList(busy=[id])


def test_refunds_of_a_dead_worker_are_queried_before_they_are_retried() -> None:
    ids = [request_refund(paid("tok_refund_timeout_done")), request_refund(paid())]
    for id in ids:
        claim(id)
    expire_lease(ids)
    assert set(refund(ids, "task-2").interrupted) == set(ids)
    for id in ids:
        second = claim(id, "task-2")
        assert second.in_doubt
        expire_lease([id])
        assert refund([id], "task-3").completed == [id]
    assert count("refund_attempts", "code = 'worker_lost'") == 4
    assert count("ledger_entries", "direction = 'debit' AND account = 'merchant_payable'") == 2


def test_a_late_outcome_after_another_worker_has_recorded_changes_nothing() -> None:
    transaction_id = paid()
    id = request_refund(transaction_id, 400)
    orphaned = claim(id)
    expire_lease([id])
    refund([id], "task-2")
    for late in (Approved("sim_other"), Declined("refund_refused", "no")):
        with autocommit() as connection:
            assert refunding.record(connection, [(orphaned, late)]) == []
    assert refund_amounts(transaction_id) == ("partially_refunded", 400, 0)
    assert (len(entries_of(id)), balance()[1], len(events())) == (2, 400, 1)


def test_many_workers_with_the_same_list_refund_each_once() -> None:
    merchant_id = make_merchant()
    transactions = [paid(merchant_id=merchant_id) for _ in range(5)]
    ids = [request_refund(transaction_id, 100) for transaction_id in transactions for _ in range(6)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: refund(ids, str(uuid4())), range(8)))
    assert (count("refund_attempts"), count("refunds", "status = 'completed'")) == (30, 30)
    assert [refund_amounts(id) for id in transactions] == [("partially_refunded", 600, 0)] * 5


def test_ends_of_refunds_lock_their_transactions_in_the_order_of_their_ids() -> None:
    transactions = sorted(paid() for _ in range(8))
    outcomes = [(claim(request_refund(id, 10)), Approved(f"sim_re_{id}")) for id in reversed(transactions)]

    def record() -> int:
        with autocommit() as connection:
            return len(refunding.record(connection, outcomes))

    def unlocked() -> set[UUID]:
        with begin() as connection:
            return set(connection.scalars(text("SELECT id FROM transactions FOR UPDATE SKIP LOCKED")))

    with ThreadPoolExecutor(1) as pool:
        with begin() as holder:
            holder.execute(text("SELECT FROM transactions WHERE id = :id FOR UPDATE"), {"id": transactions[4]})
            recording = pool.submit(record)
            eventually(lambda: unlocked() == set(transactions[5:]), within=0.9, what="a lock on each before the fifth")
        assert recording.result() == 8
    assert [refund_amounts(id) for id in transactions] == [("partially_refunded", 10, 0)] * 8


def test_an_exhausted_refund_gets_no_further_attempt() -> None:
    id = request_refund(paid("tok_refund_error_once"))
    refund([id], "task-1")
    with begin() as connection:
        refunding.exhaust(connection, [id], "ValueError: no such thing")
    assert refund([id], "task-1").dead == [id]


def test_an_adapter_that_raises_leaves_the_outcome_unknown_and_is_queried_before_the_next_attempt() -> None:
    id = request_refund(paid())
    execute("UPDATE refunds SET provider = 'nowhere' WHERE id = :id", id=id)
    assert refund([id], "task-1").retry == [id]
    execute("UPDATE refunds SET provider = 'simulated' WHERE id = :id", id=id)
    assert claim(id, "task-2").in_doubt
