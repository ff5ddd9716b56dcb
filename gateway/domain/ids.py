"""Ids and times, made in Python so that an answer is known before its statement is sent."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import uuid_utils
from uuid_utils.compat import uuid7

__all__ = ["new_id", "new_id_text", "parse_id", "parse_ids", "rfc3339", "smallest_id", "time_of", "utc_now"]

_MILLISECONDS_MAX = 2**48 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): ids made later sort later."""
    return uuid7()


def new_id_text() -> str:
    """The text of a UUIDv7 that is not needed as anything else: made in a third of the time."""
    return str(uuid_utils.uuid7())


def time_of(id: UUID) -> datetime:
    """When a UUIDv7 was made, in whole milliseconds."""
    return _EPOCH + timedelta(milliseconds=id.int >> 80)


def smallest_id(at: datetime, offset: timedelta = timedelta()) -> UUID:
    """The smallest UUIDv7 of the millisecond `offset` after `at` (RFC 9562: 48 bits of milliseconds come first)."""
    milliseconds = (at - _EPOCH + offset) // timedelta(milliseconds=1)
    return UUID(int=min(max(milliseconds, 0), _MILLISECONDS_MAX) << 80)


def parse_id(text: str) -> UUID | None:
    """The id that `text` writes in its one canonical form, or None: lower case with hyphens."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text else None


def parse_ids(ids: object, limit: int) -> list[UUID] | None:
    """The ids of a list of 1 to `limit` canonical ids, each once and in order; None when it is anything else."""
    if not isinstance(ids, list) or not 1 <= len(ids) <= limit:
        return None
    parsed = [parse_id(id) if isinstance(id, str) else None for id in ids]
    good = [id for id in parsed if id is not None]
    return list(dict.fromkeys(good)) if len(good) == len(parsed) else None


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def rfc3339(at: datetime) -> str:
    """`at` as RFC 3339 in UTC, with microseconds and a final Z."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
