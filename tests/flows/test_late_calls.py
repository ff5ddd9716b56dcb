"""Calls that continue in the background, and payments without capacity, on real PostgreSQL."""

import threading
from uuid import UUID

import pytest

from gateway.config import settings
from gateway.db import autocommit
from gateway.domain.payments import refunding, settling, unfinished_attempts
from gateway.domain.payments.attempts import Capacity
from gateway.domain.payments.kinds import TRANSACTIONS
from gateway.flows import provider_calls
from gateway.flows.provider_calls import ProcessedList
from gateway.flows.settlement import settle
from gateway.ids import new_id
from tests.helpers.factories import count, execute, expire_lease, make_merchant, route_payments, status_of
from tests.helpers.refunds import paid, request_refund
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")

LEASE_SECONDS = 30


class LateResults:
    """Collects the results of late outcomes."""

    def __init__(self) -> None:
        self.results: list[ProcessedList] = []

    def __call__(self, processed: ProcessedList) -> None:
        self.results.append(processed)


def claimed(ids: list[UUID], capacity: Capacity) -> tuple[set[UUID], set[UUID]]:
    """Claim a list; return the claimed ids, and the ids without capacity."""
    with autocommit() as connection:
        found = settling.claim(connection, ids, "task-1", LEASE_SECONDS, capacity)
    return {claim.instruction.id for claim in found.claims}, set(found.waiting)


def test_a_message_does_not_wait_for_slow_calls_and_their_outcomes_are_recorded_later() -> None:
    slow, quick = ids = route_payments(make_merchant(), "tok_slow", "tok_approve")
    late = LateResults()
    result = settle(ids, "task-1", lambda: late)
    assert (result.completed, result.in_progress) == ([quick], [slow])
    assert status_of(slow) == "processing"
    [processed] = eventually(lambda: late.results, what="the late outcome")
    assert processed == ProcessedList(completed=[slow])
    assert (status_of(slow), count("settlements"), count("charge_attempts")) == ("completed", 2, 2)


def test_a_stopping_process_finishes_its_calls_in_progress() -> None:
    ids = route_payments(make_merchant(), *["tok_slow"] * 5)
    late = LateResults()
    assert set(settle(ids, "task-1", lambda: late).in_progress) == set(ids)
    provider_calls.close()
    assert {status_of(id) for id in ids} == {"completed"}
    assert {id for processed in late.results for id in processed.completed} == set(ids)


def test_a_late_outcome_has_no_next_step_if_another_worker_has_recorded_one() -> None:
    [id] = route_payments(make_merchant(), "tok_slow")
    late = LateResults()
    assert settle([id], "task-1", lambda: late).in_progress == [id]
    expire_lease([id])
    settle([id], "task-2")
    eventually(lambda: late.results, what="the late outcome")
    assert late.results == [ProcessedList()]
    assert (count("settlements"), status_of(id)) == (1, "completed")


def test_late_outcomes_are_recorded_although_the_next_step_cannot_be_published() -> None:
    ids = route_payments(make_merchant(), "tok_slow", "tok_slow")
    called = threading.Event()

    def fail(_: ProcessedList) -> None:
        called.set()
        raise OSError("no broker")

    settle(ids[:1], "task-1", lambda: fail)
    assert called.wait(10)
    late = LateResults()
    settle(ids[1:], "task-2", lambda: late)
    eventually(lambda: late.results, what="the next late outcome")
    assert [status_of(id) for id in ids] == ["completed", "completed"]


def test_payments_without_capacity_are_not_claimed_and_use_no_attempt() -> None:
    merchant_id = make_merchant()
    ids = route_payments(merchant_id, *["tok_approve"] * 5)
    taken, waiting = claimed(ids, Capacity(free=9, of_others=9, of_merchants={merchant_id: 2}))
    assert (taken, waiting) == (set(ids[:2]), set(ids[2:]))
    assert count("charge_attempts") == 2


def test_a_single_payment_without_capacity_waits() -> None:
    merchant_id = make_merchant()
    ids = route_payments(merchant_id, "tok_approve")
    assert claimed(ids, Capacity(free=9, of_others=9, of_merchants={merchant_id: 0})) == (set(), set(ids))


def test_in_a_mixed_list_each_merchant_has_separate_capacity_within_the_total() -> None:
    full, other, third = make_merchant(), make_merchant(), make_merchant()
    of_full = route_payments(full, *["tok_approve"] * 3)
    of_other = route_payments(other, *["tok_approve"] * 3)
    of_third = route_payments(third, "tok_approve")
    capacity = Capacity(free=3, of_others=2, of_merchants={full: 0})
    taken, waiting = claimed([*of_full, *of_other, *of_third], capacity)
    assert taken == {of_other[0], of_other[1], of_third[0]}
    assert waiting == {*of_full, of_other[2]}


def test_a_list_is_split_by_capacity_into_parts_of_which_the_first_has_at_least_two_ids() -> None:
    ids = [new_id() for _ in range(5)]
    assert Capacity(free=5, of_others=5, of_merchants={}).split(ids) == (ids, [])
    assert Capacity(free=3, of_others=3, of_merchants={}).split(ids) == (ids[:3], ids[3:])
    assert Capacity(free=0, of_others=0, of_merchants={}).split(ids) == (ids[:2], ids[2:])
    assert Capacity(free=0, of_others=0, of_merchants={}).split(ids[:1]) == (ids[:1], [])


def test_a_refund_without_capacity_waits() -> None:
    refund_id = request_refund(paid())
    with autocommit() as connection:
        found = refunding.claim(connection, [refund_id], "task-1", LEASE_SECONDS, Capacity(0, 0, {}))
    assert (found.claims, found.waiting) == ([], [refund_id])
    assert count("refund_attempts") == 0


def test_payments_that_wait_for_capacity_are_not_stuck() -> None:
    merchant_id = make_merchant()
    ids = route_payments(merchant_id, "tok_approve", "tok_approve")
    hour_ago = "UPDATE transactions SET updated_at = now() - interval '1 hour'"
    execute(hour_ago)
    claimed(ids, Capacity(free=9, of_others=9, of_merchants={merchant_id: 1}))
    assert count("transactions", "requeued_at > now() - interval '1 minute'") == 1
    assert count("transactions", "requeues > 0") == 0


def test_only_attempts_without_an_outcome_are_recovered() -> None:
    done, leased, interrupted, untried = ids = route_payments(make_merchant(), *["tok_approve"] * 4)
    settle([done], "task-1")
    with autocommit() as connection:
        settling.claim(connection, [leased, interrupted], "task-1", settings().claim_lease_seconds)
    expire_lease([interrupted])
    with autocommit() as connection:
        found = unfinished_attempts.find(connection, TRANSACTIONS, ids)
    assert (found.leased, found.interrupted) == ([leased], [interrupted])
    assert 0 < found.lease_seconds <= settings().claim_lease_seconds
    assert untried not in found.interrupted
