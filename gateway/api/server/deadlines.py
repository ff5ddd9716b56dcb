"""Bound the waits for clients: each wait has a deadline, and an address with too many waits loses its oldest one."""

import asyncio
from collections import defaultdict

from gateway.errors import GatewayError, RateLimited, RequestTimeout


class Deadline:
    """The deadline of a task that waits for its client; `error` is the reason if the wait was ended."""

    __slots__ = ("address", "error", "task", "timer")

    def __init__(self, address: str, task: "asyncio.Task[object]") -> None:
        self.address = address
        self.task = task
        self.timer: asyncio.TimerHandle | None = None
        self.error: GatewayError | None = None

    def end(self, error: GatewayError) -> None:
        """End the wait: cancel the task with this error."""
        if self.error is None:
            self.error = error
            self.task.cancel()

    def time_out(self) -> None:
        """End the wait because the client exceeded its time."""
        self.end(RequestTimeout())

    def reason(self) -> GatewayError | None:
        """Return the error with which this deadline cancelled the task; None if something else cancelled it."""
        if self.error is not None:
            self.task.uncancel()
        return self.error


class Deadlines:
    """The deadlines of all waits of one kind in this process. All methods run in the event loop's thread."""

    def __init__(self, *, seconds: float, maximum: int, max_per_address: int) -> None:
        self._seconds, self._maximum, self._max_per_address = seconds, maximum, max_per_address
        self._all: dict[Deadline, None] = {}  # a dictionary keeps the order: oldest first
        self._by_address: defaultdict[str, dict[Deadline, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, address: str) -> Deadline:
        """Start the deadline of the current task; end the oldest wait if there are too many."""
        task = asyncio.current_task()
        assert task is not None
        deadline = Deadline(address, task)
        same_address = self._by_address[address]
        if len(same_address) >= self._max_per_address:
            self._evict(next(iter(same_address)), "This address has too many unfinished requests.")
        elif len(self._all) >= self._maximum:
            self._evict(next(iter(self._all)), "There are too many unfinished requests.")
        self._all[deadline] = self._by_address[address][deadline] = None
        self.renew(deadline)
        return deadline

    def renew(self, deadline: Deadline) -> None:
        """Restart the deadline."""
        self.pause(deadline)
        deadline.timer = asyncio.get_running_loop().call_later(self._seconds, deadline.time_out)

    def pause(self, deadline: Deadline) -> None:
        """Stop the deadline while the server is not waiting for the client."""
        if deadline.timer is not None:
            deadline.timer.cancel()
            deadline.timer = None

    def finish(self, deadline: Deadline) -> None:
        """Remove the deadline of a wait that has ended."""
        self.pause(deadline)
        if self._all.pop(deadline, deadline) is None:
            same_address = self._by_address[deadline.address]
            del same_address[deadline]
            if not same_address:
                del self._by_address[deadline.address]

    def _evict(self, oldest: Deadline, why: str) -> None:
        self.finish(oldest)
        oldest.end(RateLimited(why, headers={"Retry-After": "1"}))
