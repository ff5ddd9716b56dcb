"""Questions with a deadline: the answer comes in time or counts as missing, whatever hangs behind it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from threading import Lock
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
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="probe")

    def answer(self, within_seconds: float) -> Answer:
        """The answer.

        Raises:
            ProbeTimeout: it did not come `within_seconds`.
            Exception: whatever the question raised.
        """
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = self._thread.submit(self._ask)
            under_way = self._under_way
        try:
            return under_way.result(within_seconds)
        except FutureTimeout:
            raise ProbeTimeout from None
