"""Record the outcomes of provider calls that continue after their message has been handled.

One thread records outcomes, list by list, and another one publishes the next step. Their state is in memory only: if
this process dies, the leases of the attempts expire, and a message that was published beforehand finds them
(`payments.recover`, `payments.recover_refunds`).
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from loguru import logger

from gateway import db
from gateway.outcomes import Outcome

COLLECT_SECONDS = 0.02
"""Outcomes that arrive within this time are recorded together."""
OVERDUE_CHECK_SECONDS = 1.0
DATABASE_PAUSE_SECONDS = 1.0

ClaimT = TypeVar("ClaimT")


@dataclass(frozen=True, slots=True, eq=False)
class LateCall(Generic[ClaimT]):
    """A call in progress. Its outcome is recorded by `list`, at the latest at `lease_until` (monotonic)."""

    claim: ClaimT
    future: "Future[Outcome]"
    overdue_at: float
    lease_until: float
    list: "LateCallList[ClaimT]"


@dataclass(frozen=True, slots=True, eq=False)
class LateCallList(Generic[ClaimT]):
    """The shared callbacks of the calls of one message.

    `record` stores outcomes and returns the argument of `publish`. `abandon` abandons calls that do not return, and
    returns the outcome to record for them.
    """

    record: Callable[[Sequence[tuple[ClaimT, Outcome]]], Any]
    publish: Callable[[Any], None]
    abandon: Callable[[Sequence["Future[Outcome]"]], Outcome]


class LateOutcomes:
    """The calls of this process that continue in the background."""

    def __init__(self) -> None:
        self._done: queue.SimpleQueue[LateCall[Any]] = queue.SimpleQueue()
        self._to_publish: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: set[LateCall[Any]] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._recorder = threading.Thread(target=self._record_all, name="late-outcomes", daemon=True)
        self._publisher = threading.Thread(target=self._publish_all, name="late-publisher", daemon=True)
        self._recorder.start()
        self._publisher.start()

    def add(self, calls: Sequence[LateCall[Any]]) -> None:
        """Record the outcomes of `calls` when they arrive; return immediately."""
        with self._lock:
            self._waiting.update(calls)
        for call in calls:
            call.future.add_done_callback(partial(self._note, call))

    def close(self, seconds: float) -> None:
        """Wait for at most `seconds` until all calls have ended and their outcomes are recorded and published."""
        deadline = time.monotonic() + seconds
        self._closing = True
        self._recorder.join(max(0.0, deadline - time.monotonic()))
        self._to_publish.put(None)
        self._publisher.join(max(0.0, deadline - time.monotonic()))

    def _note(self, call: LateCall[Any], _future: "Future[Outcome]") -> None:
        self._done.put(call)

    def _record_all(self) -> None:
        while not (self._closing and not self._waiting):
            done = self._next()
            by_list: dict[LateCallList[Any], list[tuple[LateCall[Any], Outcome]]] = {}
            for call in done:
                by_list.setdefault(call.list, []).append((call, call.future.result()))
            for of_list, overdue in self._overdue().items():
                outcome = of_list.abandon([call.future for call in overdue])
                by_list.setdefault(of_list, []).extend((call, outcome) for call in overdue)
            for of_list, calls in by_list.items():
                self._record(of_list, calls)

    def _next(self) -> list[LateCall[Any]]:
        """Return the calls that have ended, each once; wait for the first one."""
        found: list[LateCall[Any]] = []
        try:
            found.append(self._done.get(timeout=OVERDUE_CHECK_SECONDS))
            time.sleep(COLLECT_SECONDS)
            while True:
                found.append(self._done.get_nowait())
        except queue.Empty:
            with self._lock:
                taken = [call for call in found if call in self._waiting]
                self._waiting.difference_update(taken)
            return taken

    def _overdue(self) -> dict[LateCallList[Any], list[LateCall[Any]]]:
        now = time.monotonic()
        overdue: dict[LateCallList[Any], list[LateCall[Any]]] = {}
        with self._lock:
            for call in [call for call in self._waiting if call.overdue_at <= now and not call.future.done()]:
                self._waiting.discard(call)
                overdue.setdefault(call.list, []).append(call)
        return overdue

    def _record(self, of_list: LateCallList[Any], calls: Sequence[tuple[LateCall[Any], Outcome]]) -> None:
        """Record outcomes of one list, and enqueue the publication of the next step."""
        outcomes = [(call.claim, outcome) for call, outcome in calls]
        while True:
            try:
                result = of_list.record(outcomes)
                break
            except db.UNAVAILABLE as exc:
                if time.monotonic() >= min(call.lease_until for call, _ in calls):
                    logger.error("{} outcomes could not be recorded in time: {}", len(calls), exc)
                    return  # the worker that recovers them after the lease queries the provider first
                logger.warning("{} outcomes wait for the database: {}", len(calls), type(exc).__name__)
                time.sleep(DATABASE_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001  # one bad outcome must not prevent the recording of the others
                if len(calls) == 1:
                    logger.exception("an outcome could not be recorded")
                    return
                for call in calls:
                    self._record(of_list, [call])
                return
        self._to_publish.put(lambda: of_list.publish(result))

    def _publish_all(self) -> None:
        while (publish := self._to_publish.get()) is not None:
            try:
                publish()
            except Exception:  # noqa: BLE001  # the sweep finds unpublished work
                logger.exception("the next step after a late outcome was not published")
