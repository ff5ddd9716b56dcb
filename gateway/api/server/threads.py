"""The threads that process requests. A request waits for a thread in a bounded queue, for a bounded time."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from gateway.api.server import limits
from gateway.errors import Overloaded

ResultT = TypeVar("ResultT")


class _Job:
    """A function to run in a thread. Either a thread takes it, or its deadline does."""

    __slots__ = ("_error", "_result", "_untaken", "deadline", "function", "future")

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self._untaken = [True]
        self._result: Any = None
        self._error: BaseException | None = None
        self.function = function
        self.future: asyncio.Future[Any] = loop.create_future()
        self.deadline = deadline

    @property
    def taken(self) -> bool:
        """Return whether it was taken: it is running, has run, or has expired."""
        return not self._untaken

    def take(self) -> bool:
        """Take it; return whether this call was the first. list.pop() is atomic."""
        try:
            self._untaken.pop()
        except IndexError:
            return False
        return True

    def run(self) -> None:
        """Run it in the current thread."""
        try:
            self._result = self.function()
        except BaseException as exc:  # noqa: BLE001  # the future raises it
            self._error = exc

    def settle(self) -> None:
        """Set the result of the future, in the event loop."""
        if self.future.done():
            return
        if self._error is None:
            self.future.set_result(self._result)
        else:
            self.future.set_exception(self._error)


class ThreadPool:
    """A fixed number of threads with one queue.

    An executor of `concurrent.futures` bounds neither the queue nor the waiting time, and wakes the event loop per job.
    """

    def __init__(self, count: int, name: str) -> None:
        self._queue: SimpleQueue[_Job] = SimpleQueue()
        self._finished: deque[_Job] = deque()
        self._wakeup_scheduled = False
        self._waiting: deque[_Job] = deque()
        self._timer: asyncio.TimerHandle | None = None
        for number in range(count):
            Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    async def run(self, function: Callable[[], ResultT]) -> ResultT:
        """Run `function` in one of the threads, and return its result.

        Raises:
            Overloaded: no thread became free in time, or the queue is full.
        """
        loop = asyncio.get_running_loop()
        waiting = self._waiting
        while waiting and waiting[0].taken:
            waiting.popleft()
        if len(waiting) >= limits.WAITING_MAX:
            raise _overloaded()
        self._loop = loop
        job = _Job(function, loop, loop.time() + limits.THREAD_WAIT_SECONDS)
        waiting.append(job)
        if self._timer is None:
            self._timer = loop.call_at(job.deadline, self._expire, loop)
        self._queue.put(job)
        result: ResultT = await job.future
        return result

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reject jobs that waited too long, and schedule the next check."""
        self._timer = None
        waiting = self._waiting
        while waiting and (waiting[0].taken or waiting[0].deadline <= loop.time()):
            job = waiting.popleft()
            if job.take() and not job.future.done():
                job.future.set_exception(_overloaded())
        if waiting:
            self._timer = loop.call_at(waiting[0].deadline, self._expire, loop)

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            if job.take():
                job.run()
                self._finished.append(job)
                if not self._wakeup_scheduled:  # jobs that end at the same time wake the event loop once
                    self._wakeup_scheduled = True
                    with suppress(RuntimeError):  # the loop is closed because the process ends
                        self._loop.call_soon_threadsafe(self._settle)
            del job  # releases the request body before the next job arrives

    def _settle(self) -> None:
        self._wakeup_scheduled = False
        finished = self._finished
        while finished:
            finished.popleft().settle()


def _overloaded() -> Overloaded:
    return Overloaded(headers={"Retry-After": str(math.ceil(limits.THREAD_WAIT_SECONDS))})
