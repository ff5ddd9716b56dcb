"""Periods of time in requests: from a moment (inclusive) to a later one (exclusive)."""

from datetime import datetime, timedelta

from gateway.api.http.validation import refuse
from gateway.errors import FieldError
from gateway.ids import utc_now

AHEAD_MAX = timedelta(days=1)
"""How far into the future a period may reach: to the end of today, wherever that is."""


def refuse_unless_ordered(since: datetime | None, until: datetime | None) -> None:
    """Refuse a period that does not end after it begins, or that nothing can be known of yet.

    Raises:
        ValidationFailed: it is one.
    """
    if since is not None and until is not None and since >= until:
        refuse([FieldError(pointer="/to", code="out_of_range", detail="This should be later than `from`.")])
    if until is not None and until > utc_now() + AHEAD_MAX:
        refuse([FieldError(pointer="/to", code="out_of_range", detail="This should not be in the future.")])
