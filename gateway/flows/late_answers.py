"""Calls that go on after the message that began them has been handled: recording their answers as they come.

One thread records what has been answered, list by list, and another one publishes what is to be done then. Both work on
what the database does not know yet only while it is in memory: if this process dies, the attempts' leases run out, and
the message that was published beforehand finds them (`gateway.flows.recovery`).
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
"""Answers that come within this time are recorded together."""
LOOK_SECONDS = 1.0
DATABASE_PAUSE_SECONDS = 1.0

ClaimT = TypeVar("ClaimT")


@dataclass(frozen=True, slots=True, eq=False)
class Late(Generic[ClaimT]):
    """A call in hand. Its outcome is recorded by `list`, until `lease_until` (monotonic) at the latest."""

    claim: ClaimT
    future: "Future[Outcome]"
    overdue_at: float
    lease_until: float
    list: "LateList[ClaimT]"


@dataclass(frozen=True, slots=True, eq=False)
class LateList(Generic[ClaimT]):
    """What the calls of one message have in common.

    `record` stores outcomes and returns what `publish` is to be called with. `overdue` gives up calls that never
    return, and returns the outcome that is recorded for them.
    """

    record: Callable[[Sequence[tuple[ClaimT, Outcome]]], Any]
    publish: Callable[[Any], None]
    overdue: Callable[[Sequence["Future[Outcome]"]], Outcome]


class LateAnswers:
    """All calls of this process that go on in the background."""

    def __init__(self) -> None:
        self._answered: queue.SimpleQueue[Late[Any]] = queue.SimpleQueue()
        self._to_publish: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: set[Late[Any]] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._recorder = threading.Thread(target=self._record_all, name="late-answers", daemon=True)
        self._publisher = threading.Thread(target=self._publish_all, name="late-publisher", daemon=True)
        self._recorder.start()
        self._publisher.start()

    def take_over(self, calls: Sequence[Late[Any]]) -> None:
        """Record the outcomes of `calls` when they come; returns at once."""
        with self._lock:
            self._waiting.update(calls)
        for call in calls:
            call.future.add_done_callback(partial(self._note, call))

    def close(self, seconds: float) -> None:
        """Wait until all calls have been answered, recorded and published, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        self._closing = True
        self._recorder.join(max(0.0, deadline - time.monotonic()))
        self._to_publish.put(None)
        self._publisher.join(max(0.0, deadline - time.monotonic()))

    def _note(self, call: Late[Any], _future: "Future[Outcome]") -> None:
        self._answered.put(call)

    def _record_all(self) -> None:
        while not (self._closing and not self._waiting):
            answered = self._next()
            by_list: dict[LateList[Any], list[tuple[Late[Any], Outcome]]] = {}
            for call in answered:
                by_list.setdefault(call.list, []).append((call, call.future.result()))
            for of_list, silent in self._overdue().items():
                outcome = of_list.overdue([call.future for call in silent])
                by_list.setdefault(of_list, []).extend((call, outcome) for call in silent)
            for of_list, calls in by_list.items():
                self._record(of_list, calls)

    def _next(self) -> list[Late[Any]]:
        """The calls that were answered, each once; it waits for the first one."""
        found: list[Late[Any]] = []
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

    def _overdue(self) -> dict[LateList[Any], list[Late[Any]]]:
        now = time.monotonic()
        silent: dict[LateList[Any], list[Late[Any]]] = {}
        with self._lock:
            for call in [call for call in self._waiting if call.overdue_at <= now and not call.future.done()]:
                self._waiting.discard(call)
                silent.setdefault(call.list, []).append(call)
        return silent

    def _record(self, of_list: LateList[Any], calls: Sequence[tuple[Late[Any], Outcome]]) -> None:
        """Record outcomes of one list, and have published what follows."""
        outcomes = [(call.claim, outcome) for call, outcome in calls]
        while True:
            try:
                result = of_list.record(outcomes)
                break
            except db.UNAVAILABLE as exc:
                if time.monotonic() >= min(call.lease_until for call, _ in calls):
                    logger.error("{} answers could not be recorded in time: {}", len(calls), exc)
                    return  # whoever takes them up after the lease asks the provider first
                logger.warning("{} answers wait for the database: {}", len(calls), type(exc).__name__)
                time.sleep(DATABASE_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001  # one bad answer must not keep its neighbours from being recorded
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
            except Exception:  # noqa: BLE001  # the sweep finds what was not published
                logger.exception("what follows a late answer was not published")
