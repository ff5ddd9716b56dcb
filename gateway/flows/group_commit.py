"""Doing together what several threads ask for at the same time, as databases commit (group commit).

Who comes first does its own item, at once. Who comes meanwhile waits, and is then done together with all others that
came. So nobody waits for company, and the more come, the less each of them costs.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True, eq=False)
class _Asked(Generic[ItemT, ResultT]):
    """One thread's item, and what it is told."""

    item: ItemT
    leads: bool = False
    """Whether its thread is to do the next batch, which begins with it."""
    result: ResultT | None = None
    error: BaseException | None = None
    alone: bool = False
    """Whether its thread is to do it again by itself."""
    news: threading.Lock = field(default_factory=threading.Lock)
    """Held until there is something to tell."""


class Gathering(Generic[ItemT, ResultT]):
    """One piece of work, done for several threads at once.

    `work` takes 1 to `most` items, and gives a result for each, in order. When it raises one of `separating`, which
    mean that nothing was done because of one of the items, each thread does its own item alone; what else it raises,
    all of them raise.
    """

    def __init__(
        self,
        work: Callable[[Sequence[ItemT]], Sequence[ResultT]],
        *,
        most: int,
        separating: tuple[type[Exception], ...],
    ) -> None:
        self._work = work
        self._most = most
        self._separating = separating
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: list[_Asked[ItemT, ResultT]] = []

    def do(self, item: ItemT) -> ResultT:
        """The result of `item`; what bounds `work` in time bounds this wait, which is for two rounds of it at most."""
        asked: _Asked[ItemT, ResultT] = _Asked(item)
        asked.news.acquire()
        with self._lock:
            asked.leads = not self._busy
            self._busy = True
            if not asked.leads:
                self._waiting.append(asked)
        if not asked.leads:
            asked.news.acquire()
        if asked.leads:
            self._lead(asked)
        if asked.alone:
            return self._work([item])[0]
        if asked.error is not None:
            raise asked.error
        return asked.result  # type: ignore[return-value]  # there is no error, so there is a result

    def _lead(self, first: _Asked[ItemT, ResultT]) -> None:
        with self._lock:
            batch = [first, *self._waiting[: self._most - 1]]
            del self._waiting[: self._most - 1]
        try:
            results = self._work([asked.item for asked in batch])
            for asked, result in zip(batch, results, strict=True):
                asked.result = result
        except BaseException as exc:  # noqa: BLE001  # whatever it is, the threads that wait are told
            for asked in batch:
                asked.error = exc
                asked.alone = len(batch) > 1 and isinstance(exc, self._separating)
        finally:
            self._hand_over()
            for asked in batch[1:]:
                asked.news.release()

    def _hand_over(self) -> None:
        """Have the next batch begin, if anybody waits."""
        with self._lock:
            self._busy = bool(self._waiting)
            if self._busy:
                following = self._waiting.pop(0)
                following.leads = True
                following.news.release()
