"""Group commit of what several threads store at the same time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from gateway.flows.group_commit import GroupCommit
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.unit

TIMEOUT_SECONDS = 10.0


class Refused(Exception):
    """One of the items cannot be stored."""


class Lost(Exception):
    """No item of the group was stored."""


class Store:
    """Return doubled numbers; refuse 13; lose the connection at 99. A test can block it."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.groups.append(list(items))
        assert self.may_go_on.wait(TIMEOUT_SECONDS)
        if 13 in items:
            raise Refused
        if 99 in items:
            raise Lost
        return [2 * item for item in items]


@contextmanager
def together(store: Store, group_commit: GroupCommit[int, int], items: Sequence[int]) -> Iterator[list[Future[int]]]:
    """Commit each item in its own thread, all but the first while the first one's group is blocked."""
    store.may_go_on.clear()
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(group_commit.commit, items[0])]
        eventually(lambda: len(store.groups) == 1, what="the first group")
        for number, item in enumerate(items[1:], start=1):
            futures.append(pool.submit(group_commit.commit, item))
            eventually(has_followers(group_commit, number), what=f"{number} waiting threads")
        store.may_go_on.set()
        yield futures


def has_followers(group_commit: GroupCommit[int, int], number: int) -> Callable[[], bool]:
    return lambda: group_commit.followers == number


def group_commit_of(store: Store, most: int = 50) -> GroupCommit[int, int]:
    return GroupCommit(store, most=most, separating=(Refused,))


def test_a_single_item_is_stored_alone_immediately() -> None:
    store = Store()
    assert [group_commit_of(store).commit(item) for item in (1, 2)] == [2, 4]
    assert store.groups == [[1], [2]]


def test_items_that_arrive_during_a_commit_are_stored_together_and_each_gets_its_result() -> None:
    store = Store()
    with together(store, group_commit_of(store), range(1, 9)) as futures:
        assert [future.result(TIMEOUT_SECONDS) for future in futures] == [2 * item for item in range(1, 9)]
    assert store.groups == [[1], list(range(2, 9))]


def test_a_group_has_a_maximum_size() -> None:
    store = Store()
    with together(store, group_commit_of(store, most=3), range(8)) as futures:
        assert [future.result(TIMEOUT_SECONDS) for future in futures] == [2 * item for item in range(8)]
    assert store.groups == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_a_refused_item_does_not_prevent_the_others_of_its_group() -> None:
    store = Store()
    with together(store, group_commit_of(store), [1, 2, 13, 4]) as futures:
        assert [futures[number].result(TIMEOUT_SECONDS) for number in (0, 1, 3)] == [2, 4, 8]
        with pytest.raises(Refused):
            futures[2].result(TIMEOUT_SECONDS)
    assert store.groups[:2] == [[1], [2, 13, 4]]
    assert sorted(store.groups[2:]) == [[2], [4], [13]]


def test_another_error_is_raised_in_all_threads_and_nothing_is_repeated() -> None:
    store = Store()
    group_commit = group_commit_of(store)
    with together(store, group_commit, [1, 2, 99, 4]) as futures:
        assert futures[0].result(TIMEOUT_SECONDS) == 2
        for future in futures[1:]:
            with pytest.raises(Lost):
                future.result(TIMEOUT_SECONDS)
    assert store.groups == [[1], [2, 99, 4]]
    assert group_commit.commit(5) == 10, "the next item is stored"


def test_a_refused_single_item_is_not_stored_twice() -> None:
    store = Store()
    with pytest.raises(Refused):
        group_commit_of(store).commit(13)
    assert store.groups == [[13]]


def test_with_many_threads_each_item_is_stored_once() -> None:
    done: list[int] = []

    def store(items: Sequence[int]) -> list[int]:
        done.extend(items)
        return [-item for item in items]

    group_commit = GroupCommit(store, most=7, separating=())
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(group_commit.commit, range(5_000))) == [-item for item in range(5_000)]
    assert sorted(done) == list(range(5_000))
