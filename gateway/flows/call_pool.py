"""The threads of this process that call providers, and their fair allocation to merchants (docs/fairness.md).

A merchant may start a call if it then has at most `SHARE` times as many calls in progress as threads remain free. Thus
a single merchant has up to `provider_threads` calls in progress, two merchants have about half of them each, and there
is a free thread for a merchant without calls in progress.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar
from uuid import UUID

from gateway.domain.payments.attempts import Capacity

SHARE = 8

T = TypeVar("T")


def _share_of(free: int, in_progress: int) -> int:
    """Return the largest n with in_progress + n <= SHARE * (free - n)."""
    return max(0, (SHARE * free - in_progress) // (SHARE + 1))


class CallPool:
    """Runs calls in threads, and counts the calls in progress by merchant."""

    def __init__(self, threads: int) -> None:
        self._size = threads + -(-threads // SHARE)
        self._changed = threading.Condition()  # reentrant
        self._calls: dict[Future[Any], UUID] = {}
        self._by_merchant: Counter[UUID] = Counter()
        self._executor = self._new_executor()

    def _new_executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._size, thread_name_prefix="provider")

    @property
    def is_busy(self) -> bool:
        """Return whether more than half of the threads are taken."""
        return self.in_progress > self._size // 2

    @property
    def in_progress(self) -> int:
        """Return the number of calls that have not ended."""
        with self._changed:
            return len(self._calls)

    def capacity(self) -> Capacity:
        """Return how many calls may start now; it never decreases until a call starts."""
        with self._changed:
            free = max(0, self._size - len(self._calls))
            of_merchants = {id: _share_of(free, calls) for id, calls in self._by_merchant.items()}
        return Capacity(free, min(free, max(1, _share_of(free, 0))), of_merchants)

    def start(self, merchant_id: UUID, call: Callable[[], T]) -> "Future[T]":
        """Run `call` in a thread, in the context of the caller (trace, ids of the log)."""
        future = self._executor.submit(copy_context().run, call)
        with self._changed:
            self._calls[future] = merchant_id
            self._by_merchant[merchant_id] += 1
        future.add_done_callback(self._release)
        return future

    def abandon(self, futures: Iterable["Future[Any]"]) -> None:
        """Abandon calls that do not return: they keep their threads, which are replaced for later calls."""
        self._executor = self._new_executor()
        for future in futures:
            future.cancel()  # a call that still waits for a thread must not move money after its lease
            self._release(future)

    def wait_for_capacity(self, calls: int, seconds: float) -> None:
        """Wait until there is capacity for `calls` calls or for an eighth of the threads, for at most `seconds`."""
        enough = min(calls, max(1, self._size // SHARE))
        with self._changed:
            self._changed.wait_for(lambda: self.capacity().holds(enough), seconds)

    def _release(self, future: "Future[Any]") -> None:
        with self._changed:
            merchant_id = self._calls.pop(future, None)
            if merchant_id is not None:
                self._by_merchant[merchant_id] -= 1
                if not self._by_merchant[merchant_id]:
                    del self._by_merchant[merchant_id]
            self._changed.notify_all()
