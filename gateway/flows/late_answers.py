"""Record the answers of provider calls that continue after their message has been handled.

One thread records answers, list by list, and another one publishes the next step. Their state is in memory only: if
this process dies, the leases of the attempts expire, and a message that was published beforehand finds them
(`gateway.domain.payments.unfinished_attempts`).
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

GATHER_SECONDS = 0.02
"""Answers that arrive within this time are recorded together."""
LOOK_SECONDS = 1.0
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

    `record` stores outcomes and returns the argument of `publish`. `overdue` abandons calls that do not return, and
    returns the outcome that is recorded for them.
    """

    record: Callable[[Sequence[tuple[ClaimT, Outcome]]], Any]
    publish: Callable[[Any], None]
    overdue: Callable[[Sequence["Future[Outcome]"]], Outcome]


class LateAnswers:
    """The calls of this process that continue in the background."""

    def __init__(self) -> None:
        self._answered: queue.SimpleQueue[LateCall[Any]] = queue.SimpleQueue()
        self._to_publish: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: set[LateCall[Any]] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._recorder = threading.Thread(target=self._record_all, name="late-answers", daemon=True)
        self._publisher = threading.Thread(target=self._publish_all, name="late-publisher", daemon=True)
        self._recorder.start()
        self._publisher.start()

    def take_over(self, calls: Sequence[LateCall[Any]]) -> None:
        """Record the outcomes of `calls` when they arrive; return immediately."""
        with self._lock:
            self._waiting.update(calls)
        for call in calls:
            call.future.add_done_callback(partial(self._note, call))

    def close(self, seconds: float) -> None:
        """Wait for at most `seconds` until all calls have been answered, recorded and published."""
        deadline = time.monotonic() + seconds
        self._closing = True
        self._recorder.join(max(0.0, deadline - time.monotonic()))
        self._to_publish.put(None)
        self._publisher.join(max(0.0, deadline - time.monotonic()))

    def _note(self, call: LateCall[Any], _future: "Future[Outcome]") -> None:
        self._answered.put(call)

    def _record_all(self) -> None:
        while not (self._closing and not self._waiting):
            answered = self._next()
            by_list: dict[LateCallList[Any], list[tuple[LateCall[Any], Outcome]]] = {}
            for call in answered:
                by_list.setdefault(call.list, []).append((call, call.future.result()))
            for of_list, silent in self._overdue().items():
                outcome = of_list.overdue([call.future for call in silent])
                by_list.setdefault(of_list, []).extend((call, outcome) for call in silent)
            for of_list, calls in by_list.items():
                self._record(of_list, calls)

    def _next(self) -> list[LateCall[Any]]:
        """Return the answered calls, each once; wait for the first one."""
        found: list[LateCall[Any]] = []
        try:
            found.append(self._answered.get(timeout=LOOK_SECONDS))
            time.sleep(GATHER_SECONDS)
            while True:
                found.append(self._answered.get_nowait())
        except queue.Empty:
            with self._lock:
                taken = [call for call in found if call in self._waiting]
                self._waiting.difference_update(taken)
            return taken

    def _overdue(self) -> dict[LateCallList[Any], list[LateCall[Any]]]:
        now = time.monotonic()
        silent: dict[LateCallList[Any], list[LateCall[Any]]] = {}
        with self._lock:
            for call in [call for call in self._waiting if call.overdue_at <= now and not call.future.done()]:
                self._waiting.discard(call)
                silent.setdefault(call.list, []).append(call)
        return silent

    def _record(self, of_list: LateCallList[Any], calls: Sequence[tuple[LateCall[Any], Outcome]]) -> None:
        """Record outcomes of one list, and enqueue the publication of the next step."""
        outcomes = [(call.claim, outcome) for call, outcome in calls]
        while True:
            try:
                result = of_list.record(outcomes)
                break
            except db.UNAVAILABLE as exc:
                if time.monotonic() >= min(call.lease_until for call, _ in calls):
                    logger.error("{} answers could not be recorded in time: {}", len(calls), exc)
                    return  # the worker that recovers them after the lease queries the provider first
                logger.warning("{} answers wait for the database: {}", len(calls), type(exc).__name__)
                time.sleep(DATABASE_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001  # one bad answer must not prevent the recording of the others
                if len(calls) == 1:
                    logger.exception("an answer could not be recorded")
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
                logger.exception("the next step after a late answer was not published")
