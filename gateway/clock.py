"""PostgreSQL's time, kept by this process's monotonic clock.

What schedules or orders is set by PostgreSQL's clock: a host's own clock may be wrong, or jump. A statement uses
`now()`. A process that needs the time before its statement, for an id or an answer, takes it from here: the database's
time is measured every `MEASURE_SECONDS`, when a connection is taken into use, and counted on in between.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loguru import logger

MEASURE_SECONDS = 30.0
DRIFT = 0.0005
"""How fast a monotonic clock may drift: the fastest that NTP slews one, and more than a bad oscillator does."""
OFFSET_SECONDS = 5.0
"""A host whose clock differs by more from the database's is logged and alerted."""
LOG_PAUSE_SECONDS = 300.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NANOSECONDS = 1_000_000_000
_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux' clock that goes on while the machine sleeps; `CLOCK_MONOTONIC` stops there."""


def _monotonic_ns() -> int:
    return time.clock_gettime_ns(_MONOTONIC)


@dataclass(frozen=True, slots=True)
class _Measurement:
    """What one question to the database came to; times in nanoseconds of the monotonic clock."""

    difference: int
    """The database's time less the monotonic clock's."""
    error: int
    """How wrong that is at most: half of the round trip."""
    at: int

    def error_at(self, now: int) -> int:
        """How wrong `difference` is at most by `now`."""
        return self.error + int(DRIFT * (now - self.at))


class DatabaseClock:
    """The database's time in one process. Its measurements survive a fork: the monotonic clock is the machine's."""

    def __init__(
        self, monotonic_ns: Callable[[], int] = _monotonic_ns, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._measuring = threading.Lock()
        self._measured: _Measurement | None = None
        self._due = 0
        self._log_due = 0
        self._tell: Callable[[float], object] | None = None

    def is_known(self) -> bool:
        """Whether the database was asked for its time yet."""
        return self._measured is not None

    def is_due(self) -> bool:
        """Whether it is time to ask the database again."""
        return self._monotonic_ns() >= self._due

    def measure(self, ask: Callable[[], datetime]) -> bool:
        """Have `ask` read the database's clock, if that is due; only one thread at a time does. Whether it did.

        A slow answer says little: it replaces an earlier measurement only when that can no longer be right, or is
        less exact by now.
        """
        if not self._measuring.acquire(blocking=not self.is_known()):
            return False
        try:
            if not self.is_due():
                return False
            before = self._monotonic_ns()
            told = ask()
            after = self._monotonic_ns()
        finally:
            self._measuring.release()
        middle = (before + after) // 2
        new = _Measurement((told - _EPOCH) // _MICROSECOND * 1000 - middle, (after - before) // 2, after)
        old = self._measured
        if old is None or self._is_better(new, old):
            self._measured = new
        self._due = after + int(MEASURE_SECONDS * _NANOSECONDS)
        self._look_at_offset(after)
        return True

    def _is_better(self, new: _Measurement, old: _Measurement) -> bool:
        old_error = old.error_at(new.at)
        contradictory = abs(new.difference - old.difference) > new.error + old_error
        return contradictory or new.error <= old_error

    def now_ns(self) -> int:
        """The database's time, in nanoseconds since 1970.

        Raises:
            RuntimeError: the database was never asked; see `is_known`.
        """
        measured = self._measured
        if measured is None:
            raise RuntimeError("the database's time is not known yet")
        return self._monotonic_ns() + measured.difference

    def offset_seconds(self) -> float | None:
        """How far the host's clock is ahead of the database's at this moment; None before the first measurement."""
        return (self._wall_ns() - self.now_ns()) / _NANOSECONDS if self.is_known() else None

    def forget(self) -> None:
        """Measure again before the next use: the time that was counted on to is wrong."""
        self._due = 0

    def when_off(self, tell: Callable[[float], object]) -> None:
        """Call `tell` with the offset at each measurement that finds more than `OFFSET_SECONDS`. It must not block."""
        self._tell = tell

    def _look_at_offset(self, now: int) -> None:
        offset = self.offset_seconds()
        if offset is None or abs(offset) <= OFFSET_SECONDS:
            return
        if now >= self._log_due:
            self._log_due = now + int(LOG_PAUSE_SECONDS * _NANOSECONDS)
            logger.warning("{}", describe(offset))
        if self._tell is not None:
            self._tell(offset)


def describe(offset: float) -> str:
    """What an offset means, for a log line, an alert, or an answer."""
    direction = "ahead of" if offset > 0 else "behind"
    return f"The clock of this host is {abs(offset):.1f} s {direction} the database's; check NTP on both."


database_clock = DatabaseClock()
