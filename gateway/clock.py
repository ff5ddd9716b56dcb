"""PostgreSQL's time, extrapolated with this process's monotonic clock.

Scheduling and ordering use PostgreSQL's clock, because the clock of a host may be wrong or jump. A statement uses
`now()`. A process that needs the time before its statement, for an id or a response, uses this module: the database's
time is measured every `MEASURE_SECONDS`, when a connection is checked out, and extrapolated in between.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loguru import logger

MEASURE_SECONDS = 30.0
DRIFT = 0.0005
"""Maximum drift of a monotonic clock: the maximum slew rate of NTP, which exceeds the drift of a bad oscillator."""
OFFSET_SECONDS = 5.0
"""A larger difference between a host's clock and the database's clock is logged and alerted."""
LOG_PAUSE_SECONDS = 300.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NANOSECONDS = 1_000_000_000
_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux' monotonic clock that includes suspension; `CLOCK_MONOTONIC` stops during suspension."""


def _monotonic_ns() -> int:
    return time.clock_gettime_ns(_MONOTONIC)


@dataclass(frozen=True, slots=True)
class _Measurement:
    """One measurement of the database's time, in nanoseconds of the monotonic clock."""

    difference: int
    """The database's time minus the monotonic clock."""
    error: int
    """Maximum error of `difference` at the measurement: half of the round trip."""
    at: int

    def error_at(self, now: int) -> int:
        """Return the maximum error of `difference` at `now`."""
        return self.error + int(DRIFT * (now - self.at))


class DatabaseClock:
    """The database's time in one process. Measurements stay valid after a fork: the monotonic clock is shared."""

    def __init__(
        self, monotonic_ns: Callable[[], int] = _monotonic_ns, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._measuring = threading.Lock()
        self._measured: _Measurement | None = None
        self._due = 0
        self._log_due = 0
        self._report: Callable[[float], object] | None = None

    def is_known(self) -> bool:
        """Return whether the database's time has been measured."""
        return self._measured is not None

    def is_due(self) -> bool:
        """Return whether the next measurement is due."""
        return self._monotonic_ns() >= self._due

    def measure(self, ask: Callable[[], datetime]) -> bool:
        """Measure with `ask`, which reads the database's clock, if that is due; return whether it was measured.

        Only one thread at a time measures. A slow answer is inexact: it replaces an earlier measurement only if that
        contradicts it, or has become less exact.
        """
        if not self._measuring.acquire(blocking=not self.is_known()):
            return False
        try:
            if not self.is_due():
                return False
            before = self._monotonic_ns()
            answer = ask()
            after = self._monotonic_ns()
        finally:
            self._measuring.release()
        middle = (before + after) // 2
        new = _Measurement((answer - _EPOCH) // _MICROSECOND * 1000 - middle, (after - before) // 2, after)
        old = self._measured
        if old is None or self._is_better(new, old):
            self._measured = new
        self._due = after + int(MEASURE_SECONDS * _NANOSECONDS)
        self._check_offset(after)
        return True

    def _is_better(self, new: _Measurement, old: _Measurement) -> bool:
        old_error = old.error_at(new.at)
        contradictory = abs(new.difference - old.difference) > new.error + old_error
        return contradictory or new.error <= old_error

    def now_ns(self) -> int:
        """Return the database's time, in nanoseconds since 1970.

        Raises:
            RuntimeError: the time has never been measured; see `is_known`.
        """
        measured = self._measured
        if measured is None:
            raise RuntimeError("the database's time is not known yet")
        return self._monotonic_ns() + measured.difference

    def offset_seconds(self) -> float | None:
        """Return the host's clock minus the database's clock; None before the first measurement."""
        return (self._wall_ns() - self.now_ns()) / _NANOSECONDS if self.is_known() else None

    def forget(self) -> None:
        """Make the next use measure again, because the extrapolated time proved wrong."""
        self._due = 0

    def on_offset(self, report: Callable[[float], object]) -> None:
        """Call `report` at each measurement with an offset of more than `OFFSET_SECONDS`. It must not block."""
        self._report = report

    def _check_offset(self, now: int) -> None:
        offset = self.offset_seconds()
        if offset is None or abs(offset) <= OFFSET_SECONDS:
            return
        if now >= self._log_due:
            self._log_due = now + int(LOG_PAUSE_SECONDS * _NANOSECONDS)
            logger.warning("{}", describe(offset))
        if self._report is not None:
            self._report(offset)


def describe(offset: float) -> str:
    """Describe an offset for a log line, an alert or a response."""
    direction = "ahead of" if offset > 0 else "behind"
    return f"The clock of this host is {abs(offset):.1f} s {direction} the database's; check NTP on both."


database_clock = DatabaseClock()
