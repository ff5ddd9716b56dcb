"""The allocation of the threads that call providers."""

import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from gateway.flows.call_pool import CallPool
from gateway.ids import new_id
from tests.helpers.waiting import eventually

THREADS = 16


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Yield an event that keeps calls in progress until the test ends."""
    event = threading.Event()
    yield event
    event.set()


def fill(pool: CallPool, merchant_id: UUID, hanging: threading.Event) -> int:
    """Start as many calls of a merchant as there is capacity for; return their number."""
    started = 0
    while pool.capacity().of_merchants.get(merchant_id, pool.capacity().of_others) > 0:
        pool.start(merchant_id, hanging.wait)
        started += 1
    return started


@pytest.mark.parametrize("threads", [1, 2, 7, 8, THREADS, 200])
def test_a_single_merchant_may_have_as_many_calls_in_progress_as_the_setting_says(
    threads: int, hanging: threading.Event
) -> None:
    assert fill(CallPool(threads), new_id(), hanging) == threads


@pytest.mark.parametrize("threads", [1, 2, THREADS, 200])
def test_another_merchant_gets_a_thread_regardless_of_the_calls_of_the_first(
    threads: int, hanging: threading.Event
) -> None:
    pool = CallPool(threads)
    fill(pool, new_id(), hanging)
    called = threading.Event()
    assert pool.capacity().of_others >= 1
    pool.start(new_id(), called.set)
    eventually(called.is_set, what="the other merchant's call")


def test_threads_that_become_free_go_to_the_merchant_with_fewer_calls(hanging: threading.Event) -> None:
    pool, first, second = CallPool(THREADS), new_id(), new_id()
    ends = [threading.Event() for _ in range(THREADS)]
    for end in ends:
        pool.start(first, end.wait)
    started = fill(pool, second, hanging)
    for end in ends:
        before = pool.in_progress
        end.set()
        eventually(lambda before=before: pool.in_progress < before, what="the end of a call")  # type: ignore[misc]
        fill(pool, first, hanging)  # the merchant with more calls starts first
        started += fill(pool, second, hanging)
    assert started >= THREADS // 2 - 1


def test_a_list_fits_only_if_it_would_fit_for_every_merchant(hanging: threading.Event) -> None:
    pool, merchant_id = CallPool(THREADS), new_id()
    assert pool.capacity().holds(THREADS)
    assert not pool.capacity().holds(THREADS + 1)
    pool.start(merchant_id, hanging.wait)
    assert not pool.capacity().holds(THREADS)


def test_calls_that_never_return_take_no_threads_from_later_calls(hanging: threading.Event) -> None:
    pool, merchant_id = CallPool(2), new_id()
    silent = [pool.start(merchant_id, hanging.wait) for _ in range(2)]
    pool.abandon(silent)
    assert pool.in_progress == 0
    assert pool.start(merchant_id, lambda: 7).result(timeout=10) == 7


def test_waiting_for_capacity_ends_when_calls_end() -> None:
    pool, merchant_id, end = CallPool(THREADS), new_id(), threading.Event()
    for _ in range(THREADS):
        pool.start(merchant_id, end.wait)
    waiting = threading.Thread(target=pool.wait_for_capacity, args=(THREADS, 30.0))
    waiting.start()
    assert waiting.is_alive()
    end.set()
    waiting.join(10)
    assert not waiting.is_alive()


def test_waiting_for_capacity_is_limited_in_time(hanging: threading.Event) -> None:
    pool = CallPool(THREADS)
    fill(pool, new_id(), hanging)
    pool.wait_for_capacity(1, 0.01)
    assert not pool.capacity().holds(1)
