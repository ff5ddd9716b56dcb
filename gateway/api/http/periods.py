"""Check periods of time in requests: they include their start (`from`) and exclude their end (`to`)."""

from datetime import datetime, timedelta

from gateway.api.http.validation import reject
from gateway.errors import FieldError
from gateway.ids import utc_now

FUTURE_MAX = timedelta(days=1)
"""Maximum time from now to the end of a period: today may be a day later elsewhere in the world."""


def check_period(start: datetime | None, end: datetime | None) -> None:
    """Reject a period whose end is not later than its start, or that reaches into the future.

    Raises:
        ValidationFailed: the period is not valid.
    """
    if start is not None and end is not None and start >= end:
        reject([FieldError(pointer="/to", code="out_of_range", detail="This must be later than `from`.")])
    if end is not None and end > utc_now() + FUTURE_MAX:
        reject([FieldError(pointer="/to", code="out_of_range", detail="This must not be in the future.")])
