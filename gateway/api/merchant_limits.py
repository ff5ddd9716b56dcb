"""How many payments of one merchant may be without an outcome at a time.

No request asks the database for it: a process counts what is unfinished, and may then accept a part of what is missing
to the limit before it counts again. So several processes can exceed the limit together, by a sixteenth of it each.

Without the database everybody is let in: a payment fails by itself then.
"""

import math
import threading
import time
from functools import lru_cache
from uuid import UUID

from gateway import db
from gateway.config import settings
from gateway.domain import backlog
from gateway.errors import RateLimited

PART = 16
"""A process may accept this part of what is missing to the limit before it counts again."""
RECOUNT_SECONDS = 10.0
"""A count is not used longer: other processes accept payments too."""
COUNTED_PER_SECOND = 100_000
"""Payments that a process counts per second at most: the more there are, the seldomer it counts them."""
PAUSE_MIN_SECONDS = 0.05
MERCHANTS_MAX = 10_000
"""Merchants whose count is kept; another one's is forgotten."""


class _Unfinished:
    """What this process knows of one merchant's unfinished payments."""

    __slots__ = ("_counted_at", "_lock", "_may_accept", "_merchant_id", "_pause")

    def __init__(self, merchant_id: UUID) -> None:
        self._merchant_id = merchant_id
        self._lock = threading.Lock()
        self._may_accept = 0
        self._counted_at = -math.inf
        self._pause = 0.0

    def accept(self, most: int) -> float:
        """Accept one more; the seconds to wait if that would be too many."""
        with self._lock:
            age = time.monotonic() - self._counted_at
            if age >= RECOUNT_SECONDS or (not self._may_accept and age >= self._pause):
                self._count(most)
                age = 0.0
            if self._may_accept:
                self._may_accept -= 1
                return 0.0
            return max(PAUSE_MIN_SECONDS, self._pause - age)

    def _count(self, most: int) -> None:
        try:
            with db.autocommit() as connection:
                found = backlog.unfinished_of(connection, self._merchant_id, most)
        except db.UNAVAILABLE:
            found = 0
        self._counted_at = time.monotonic()
        self._may_accept = math.ceil(max(0, most - found) / PART)
        self._pause = max(PAUSE_MIN_SECONDS, found / COUNTED_PER_SECOND)


_unfinished = lru_cache(maxsize=MERCHANTS_MAX)(_Unfinished)


def admit_payment(merchant_id: UUID) -> None:
    """Let one more payment of this merchant in.

    Raises:
        RateLimited: MERCHANT_UNFINISHED_MAX of them have no outcome yet.
    """
    most = settings().merchant_unfinished_max
    wait_seconds = _unfinished(merchant_id).accept(most) if most else 0.0
    if wait_seconds > 0:
        raise RateLimited(
            f"This merchant has {most} payments without an outcome, the most that it may have at a time.",
            headers={"Retry-After": str(math.ceil(wait_seconds))},
        )


def forget() -> None:
    """Count every merchant's payments anew."""
    _unfinished.cache_clear()
