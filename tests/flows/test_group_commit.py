"""Doing together what threads ask for at the same time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from gateway.flows.group_commit import Gathering
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.unit

PATIENCE = 10.0


class Refused(Exception):
    """One item spoils what it is done together with."""


class Lost(Exception):
    """What concerns all items alike."""


class Work:
    """Doubles numbers; 13 is refused, 99 means that the connection is lost. It can be held up."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.rounds.append(list(items))
        assert self.may_go_on.wait(PATIENCE)
        if 13 in items:
            raise Refused
        if 99 in items:
            raise Lost
        return [2 * item for item in items]


@contextmanager
def together(work: Work, gathering: Gathering[int, int], items: Sequence[int]) -> Iterator[list[Future[int]]]:
    """One thread per item; all but the first come while the first one's round is held up."""
    work.may_go_on.clear()
    with ThreadPoolExecutor(len(items)) as pool:
        asked = [pool.submit(gathering.do, items[0])]
        eventually(lambda: len(work.rounds) == 1, what="the first round")
        for number, item in enumerate(items[1:], start=1):
            asked.append(pool.submit(gathering.do, item))
            eventually(waiting(gathering, number), what=f"{number} waiting threads")
        work.may_go_on.set()
        yield asked


def waiting(gathering: Gathering[int, int], number: int) -> Callable[[], bool]:
    return lambda: len(gathering._waiting) == number


def gathering_of(work: Work, most: int = 50) -> Gathering[int, int]:
    return Gathering(work, most=most, separating=(Refused,))


def test_who_comes_alone_is_done_alone_at_once() -> None:
    work = Work()
    assert [gathering_of(work).do(item) for item in (1, 2)] == [2, 4]
    assert work.rounds == [[1], [2]]


def test_who_comes_meanwhile_is_done_together_and_gets_the_result_of_its_own_item() -> None:
    work = Work()
    with together(work, gathering_of(work), range(1, 9)) as asked:
        assert [future.result(PATIENCE) for future in asked] == [2 * item for item in range(1, 9)]
    assert work.rounds == [[1], list(range(2, 9))]


def test_a_round_takes_no_more_than_it_may() -> None:
    work = Work()
    with together(work, gathering_of(work, most=3), range(8)) as asked:
        assert [future.result(PATIENCE) for future in asked] == [2 * item for item in range(8)]
    assert work.rounds == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_an_item_that_spoils_its_round_spoils_none_of_the_others() -> None:
    work = Work()
    with together(work, gathering_of(work), [1, 2, 13, 4]) as asked:
        assert [asked[number].result(PATIENCE) for number in (0, 1, 3)] == [2, 4, 8]
        with pytest.raises(Refused):
            asked[2].result(PATIENCE)
    assert work.rounds[:2] == [[1], [2, 13, 4]]
    assert sorted(work.rounds[2:]) == [[2], [4], [13]]


def test_an_error_that_concerns_all_is_raised_to_all_and_nothing_is_done_again() -> None:
    work = Work()
    gathering = gathering_of(work)
    with together(work, gathering, [1, 2, 99, 4]) as asked:
        assert asked[0].result(PATIENCE) == 2
        for future in asked[1:]:
            with pytest.raises(Lost):
                future.result(PATIENCE)
    assert work.rounds == [[1], [2, 99, 4]]
    assert gathering.do(5) == 10, "the next one finds it free"


def test_a_lone_item_that_is_refused_is_not_tried_twice() -> None:
    work = Work()
    with pytest.raises(Refused):
        gathering_of(work).do(13)
    assert work.rounds == [[13]]


def test_under_many_threads_each_item_is_done_once() -> None:
    done: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        done.extend(items)
        return [-item for item in items]

    gathering = Gathering(work, most=7, separating=())
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(gathering.do, range(5_000))) == [-item for item in range(5_000)]
    assert sorted(done) == list(range(5_000))
