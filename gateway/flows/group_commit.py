"""Group commit: store the items of several threads in one database transaction.

The first thread becomes the leader and stores its item immediately. Threads that arrive meanwhile become followers:
they wait, and the first of them becomes the next leader and stores the items of all. So no item waits for others to
arrive, and the cost per item falls with the number of concurrent items.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True, eq=False)
class _Member(Generic[ItemT, ResultT]):
    """One thread's item and its result."""

    item: ItemT
    is_leader: bool = False
    """Whether its thread stores the next group, which begins with it."""
    result: ResultT | None = None
    error: BaseException | None = None
    retry_alone: bool = False
    """Whether its thread stores it again, without the others of its group."""
    wakeup: threading.Lock = field(default_factory=threading.Lock)
    """Released when its thread may go on; a lock is the cheapest event that Python has."""


class GroupCommit(Generic[ItemT, ResultT]):
    """Store the items of several threads together.

    `store` takes 1 to `max_items` items and returns a result for each, in order. If it raises one of `separating`,
    nothing was stored because of one of the items, and each thread stores its own item alone. Any other error is raised
    in all threads of the group.
    """

    def __init__(
        self,
        store: Callable[[Sequence[ItemT]], Sequence[ResultT]],
        *,
        max_items: int,
        separating: tuple[type[Exception], ...],
    ) -> None:
        self._store = store
        self._max_items = max_items
        self._separating = separating
        self._lock = threading.Lock()
        self._has_leader = False
        self._followers: list[_Member[ItemT, ResultT]] = []

    @property
    def followers(self) -> int:
        """Return how many threads wait for the next group."""
        return len(self._followers)

    def commit(self, item: ItemT) -> ResultT:
        """Store `item` and return its result. This takes the time of two calls of `store` at most."""
        member: _Member[ItemT, ResultT] = _Member(item)
        member.wakeup.acquire()
        with self._lock:
            member.is_leader = not self._has_leader
            self._has_leader = True
            if not member.is_leader:
                self._followers.append(member)
        if not member.is_leader:
            member.wakeup.acquire()
        if member.is_leader:
            self._lead(member)
        if member.retry_alone:
            return self._store([item])[0]
        if member.error is not None:
            raise member.error
        return member.result  # type: ignore[return-value]  # there is no error, so there is a result

    def _lead(self, leader: _Member[ItemT, ResultT]) -> None:
        with self._lock:
            group = [leader, *self._followers[: self._max_items - 1]]
            del self._followers[: self._max_items - 1]
        try:
            results = self._store([member.item for member in group])
            for member, result in zip(group, results, strict=True):
                member.result = result
        except BaseException as exc:  # noqa: BLE001  # each thread of the group raises it
            for member in group:
                member.error = exc
                member.retry_alone = len(group) > 1 and isinstance(exc, self._separating)
        finally:
            self._appoint_leader()
            for member in group[1:]:
                member.wakeup.release()

    def _appoint_leader(self) -> None:
        """Make the first follower the leader of the next group."""
        with self._lock:
            self._has_leader = bool(self._followers)
            if self._has_leader:
                leader = self._followers.pop(0)
                leader.is_leader = True
                leader.wakeup.release()
