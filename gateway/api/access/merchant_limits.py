"""Limit the unfinished payments of each merchant.

Most requests need no query: a process counts the unfinished payments, and may then accept a fraction of the remaining
capacity before it counts again. Thus each process can exceed the limit by at most a sixteenth.

While the database is unavailable the limit does not apply: the payment itself then fails.
"""

import math
import threading
import time
from functools import lru_cache
from uuid import UUID

from gateway import db
from gateway.config import settings
from gateway.domain.operations import backlog
from gateway.errors import RateLimited

SHARES = 16
"""The divisor of the remaining capacity: a process may accept a sixteenth of it before it counts again."""
RECOUNT_SECONDS = 10.0
"""Maximum age of a count: other processes accept payments too."""
COUNTED_PER_SECOND = 100_000
"""Maximum number of payments that a process counts per second: the more there are, the less often it counts them."""
PAUSE_MIN_SECONDS = 0.05
MERCHANTS_MAX = 10_000
"""Maximum number of merchants whose count is cached."""


class UnfinishedCount:
    """The count of one merchant's unfinished payments in this process."""

    __slots__ = ("_counted_at", "_lock", "_may_accept", "_merchant_id", "_pause")

    def __init__(self, merchant_id: UUID) -> None:
        self._merchant_id = merchant_id
        self._lock = threading.Lock()
        self._may_accept = 0
        self._counted_at = -math.inf
        self._pause = 0.0

    def accept(self, maximum: int) -> float:
        """Accept one more payment; return the seconds to wait if it would exceed the limit, or else 0."""
        with self._lock:
            age = time.monotonic() - self._counted_at
            if age >= RECOUNT_SECONDS or (not self._may_accept and age >= self._pause):
                self._count(maximum)
                age = 0.0
            if self._may_accept:
                self._may_accept -= 1
                return 0.0
            return max(PAUSE_MIN_SECONDS, self._pause - age)

    def _count(self, maximum: int) -> None:
        try:
            with db.autocommit() as connection:
                found = backlog.unfinished_of(connection, self._merchant_id, maximum)
        except db.UNAVAILABLE:
            found = 0
        self._counted_at = time.monotonic()
        self._may_accept = math.ceil(max(0, maximum - found) / SHARES)
        self._pause = max(PAUSE_MIN_SECONDS, found / COUNTED_PER_SECOND)


_unfinished = lru_cache(maxsize=MERCHANTS_MAX)(UnfinishedCount)


def admit_payment(merchant_id: UUID) -> None:
    """Accept one more payment of this merchant.

    Raises:
        RateLimited: MERCHANT_UNFINISHED_MAX of its payments have no outcome yet.
    """
    maximum = settings().merchant_unfinished_max
    wait_seconds = _unfinished(merchant_id).accept(maximum) if maximum else 0.0
    if wait_seconds > 0:
        raise RateLimited(
            f"This merchant has {maximum} payments without an outcome, which is the maximum.",
            headers={"Retry-After": str(math.ceil(wait_seconds))},
        )


def forget() -> None:
    """Discard all counts."""
    _unfinished.cache_clear()
