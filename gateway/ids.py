"""Create ids and times in Python, so that a response is known before its statement is sent.

Both use the database's time: rows are in order regardless of the host that created them and of its clock.
"""

import secrets
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID

import uuid_utils

from gateway import db
from gateway.clock import database_clock

__all__ = ["new_id", "new_id_text", "parse_id", "parse_ids", "rfc3339", "smallest_id", "time_of", "utc_now"]

_MILLISECONDS_MAX = 2**48 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICKS = 4096
"""The 12 bits after the milliseconds count fractions of a millisecond (RFC 9562, section 6.2, method 3)."""
_BACK_MAX_TICKS = 1_000 * _TICKS
"""One second. Ids stay in order if the time is corrected backwards by less; a larger correction changes the order."""
_MARKS = 0b0111 << 76 | 0b10 << 62
"""The version and the variant of a UUIDv7."""

_lock = threading.Lock()
_last_ticks = 0


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562) of the database's time: ids that this process creates later sort later.

    Ids of other processes and hosts also sort by time, with the precision of its measurement: within milliseconds.
    """
    global _last_ticks  # noqa: PLW0603  # one sequence per process
    ticks = _now_ns() * _TICKS // 1_000_000
    with _lock:
        if _last_ticks - ticks < _BACK_MAX_TICKS:
            ticks = max(ticks, _last_ticks + 1)
        _last_ticks = ticks
    milliseconds, fraction = divmod(ticks, _TICKS)
    return UUID(int=milliseconds << 80 | fraction << 64 | _MARKS | secrets.randbits(62))


def new_id_text() -> str:
    """Return the text of a UUID without an order, such as a request id; it takes a tenth of the time."""
    return str(uuid_utils.uuid7())


def _now_ns() -> int:
    if not database_clock.is_known():
        db.measure_time()
    return database_clock.now_ns()


def time_of(id: UUID) -> datetime:
    """Return the time at which a UUIDv7 was created, in whole milliseconds."""
    return _EPOCH + timedelta(milliseconds=id.int >> 80)


def smallest_id(at: datetime, offset: timedelta = timedelta()) -> UUID:
    """Return the smallest UUIDv7 of the time `at` plus `offset` (RFC 9562: it begins with 48 bits of milliseconds)."""
    milliseconds = (at - _EPOCH + offset) // timedelta(milliseconds=1)
    return UUID(int=min(max(milliseconds, 0), _MILLISECONDS_MAX) << 80)


def parse_id(text: str) -> UUID | None:
    """Return the id of `text` if it is in canonical form, lower case with hyphens, else None."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text else None


def parse_ids(ids: object, limit: int) -> list[UUID] | None:
    """Return the distinct ids of a list of 1 to `limit` canonical ids in order; None for anything else."""
    if not isinstance(ids, list) or not 1 <= len(ids) <= limit:
        return None
    parsed = [parse_id(id) if isinstance(id, str) else None for id in ids]
    good = [id for id in parsed if id is not None]
    return list(dict.fromkeys(good)) if len(good) == len(parsed) else None


def utc_now() -> datetime:
    """Return the current time of the database's clock, in UTC.

    Raises:
        sqlalchemy.exc.OperationalError: the database is unavailable, and its time has never been measured.
    """
    return _EPOCH + timedelta(microseconds=_now_ns() // 1000)


def rfc3339(at: datetime) -> str:
    """Return `at` in RFC 3339 format in UTC, with microseconds and a final Z."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
