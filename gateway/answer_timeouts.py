"""Time limits for answers of PostgreSQL.

libpq has none: a client waits forever for a server that accepts data and does not answer, such as a frozen one.
`statement_timeout` is enforced by the server itself, and TCP's timeouts notice only that a host is gone. Therefore a
thread of this process shuts down the socket of a connection whose answer is late, and the waiting thread gets an error.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg

CHECK_SECONDS = 0.1
"""The interval at which the thread checks the deadlines."""
IDLE_CHECKS_MAX = 50
"""After this number of checks without an awaited answer, the thread sleeps until the next one is awaited."""


class LateAnswer(psycopg.OperationalError):
    """PostgreSQL did not answer in time. The effect of the statement is unknown, and its connection is closed."""


@dataclass(slots=True)
class _Awaited:
    """An answer that is awaited on a connection."""

    seconds: float
    deadline: float
    late: bool = False


class AnswerTimeouts:
    """The awaited answers of this process, at most one per connection."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start over, as in a child process, which has none of the parent's threads."""
        self._lock = threading.RLock()  # a garbage collection under the lock may return a connection to its pool
        self._awaited: dict[psycopg.Connection[Any], _Awaited] = {}
        self._needed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, connection: psycopg.Connection[Any], seconds: float) -> None:
        """Limit the wait for the next answer on `connection`; `stop` ends the limit."""
        awaited = _Awaited(seconds, time.monotonic() + seconds)
        with self._lock:
            self._awaited[connection] = awaited
            if not self._needed.is_set():
                if self._thread is None:
                    thread = threading.Thread(target=self._watch, name="answer-timeouts", daemon=True)
                    thread.start()
                    self._thread = thread
                self._needed.set()

    def stop(self, connection: psycopg.Connection[Any]) -> LateAnswer | None:
        """End the limit; return an error if the answer was late."""
        with self._lock:
            awaited = self._awaited.pop(connection, None)
        if awaited is None or not awaited.late:
            return None
        return LateAnswer(f"PostgreSQL did not answer within {awaited.seconds:g} s")

    @property
    def awaited(self) -> int:
        """Return how many answers are awaited."""
        return len(self._awaited)

    @contextmanager
    def limit(self, connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
        """Limit the duration of the block, which uses `connection` without SQLAlchemy.

        Raises:
            LateAnswer: it took too long.
        """
        self.start(connection, seconds)
        try:
            yield
        except psycopg.Error as exc:
            late = self.stop(connection)
            if late is not None:
                raise late from exc
            raise
        finally:
            self.stop(connection)

    def _watch(self) -> None:
        idle_checks = 0
        while True:
            self._needed.wait()
            time.sleep(CHECK_SECONDS)
            with self._lock:
                idle_checks = 0 if self._awaited else idle_checks + 1
                if idle_checks > IDLE_CHECKS_MAX:
                    self._needed.clear()
                    idle_checks = 0
                now = time.monotonic()
                for connection, awaited in list(self._awaited.items()):
                    if not awaited.late and now >= awaited.deadline:
                        awaited.late = True
                        _shut_down(connection)


def _shut_down(connection: psycopg.Connection[Any]) -> None:
    """Shut the socket down, which another thread waits for; that thread closes the connection."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


answer_timeouts = AnswerTimeouts()
os.register_at_fork(after_in_child=answer_timeouts.forget)
