"""Questions with a deadline: the answer comes in time or counts as missing, whatever hangs behind it."""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from threading import Lock, Thread
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class ProbeTimeout(Exception):
    """The answer did not come in time."""


class Probe(Generic[Answer]):
    """One question, asked at most once at a time: who asks while it is under way waits for the same answer."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._under_way: Future[Answer] | None = None

    def answer(self, within_seconds: float) -> Answer:
        """The answer.

        Raises:
            ProbeTimeout: it did not come `within_seconds`.
            Exception: whatever the question raised.
        """
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = self._start()
            under_way = self._under_way
        try:
            return under_way.result(within_seconds)
        except FutureTimeout:
            raise ProbeTimeout(f"no answer within {within_seconds:g} s") from None

    def _start(self) -> Future[Answer]:
        future: Future[Answer] = Future()
        # a daemon: one that hangs must not keep the process from ending, which an executor's thread would
        Thread(target=self._run, args=(future,), name="probe", daemon=True).start()
        return future

    def _run(self, future: Future[Answer]) -> None:
        try:
            future.set_result(self._ask())
        except BaseException as exc:  # noqa: BLE001  # whoever waits gets it
            future.set_exception(exc)
