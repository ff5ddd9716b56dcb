"""Queries with a deadline: the result arrives in time, or counts as missing."""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from threading import Lock, Thread
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class ProbeTimeout(Exception):
    """The result did not arrive in time."""


class Probe(Generic[ValueT]):
    """A query that runs at most once at a time: callers during a run wait for the result of this run."""

    def __init__(self, query: Callable[[], ValueT]) -> None:
        self._query = query
        self._lock = Lock()
        self._run: Future[ValueT] | None = None

    def result(self, timeout_seconds: float) -> ValueT:
        """Return the result of the query.

        Raises:
            ProbeTimeout: it did not arrive within `timeout_seconds`.
            Exception: the query raised it.
        """
        with self._lock:
            if self._run is None or self._run.done():
                self._run = self._start()
            run = self._run
        try:
            return run.result(timeout_seconds)
        except FutureTimeout:
            raise ProbeTimeout(f"no result within {timeout_seconds:g} s") from None

    def _start(self) -> Future[ValueT]:
        future: Future[ValueT] = Future()
        # a daemon thread: a thread of an executor would keep the process from ending while the query hangs
        Thread(target=self._execute, args=(future,), name="probe", daemon=True).start()
        return future

    def _execute(self, future: Future[ValueT]) -> None:
        try:
            future.set_result(self._query())
        except BaseException as exc:  # noqa: BLE001  # the callers raise it
            future.set_exception(exc)
