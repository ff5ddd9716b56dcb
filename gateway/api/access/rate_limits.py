"""Rate limits: per API client, per merchant, and per address for registration, log-in and token requests.

Wrong passwords are counted separately, by gateway/domain/merchants/login_limits.py.

A process spends tokens that it leased in blocks from the bucket that all processes share, so most requests need no
query: about one per second for a caller below the limit, at most `1 / PAUSE_SECONDS` per second for a caller above it.
Tokens that a process leased and did not spend expire.

While the database is unavailable the limits do not apply: a rate limiter must not cause an outage, and the protected
operations, payments and log-ins, then fail anyway.
"""

import math
import threading
import time
from collections.abc import Callable
from functools import cache, lru_cache
from uuid import UUID

from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain.merchants import rate_limits
from gateway.domain.merchants.rate_limits import Limit
from gateway.errors import RateLimited
from gateway.reasons import reason_of

LEASE_SECONDS = 1.0
"""Time after which leased tokens that were not spent expire."""
BLOCK_SHARE = 0.05
"""The largest lease, as a share of the tokens of one second. More than 1 / BLOCK_SHARE processes could lease all of
them without spending them."""
PAUSE_SECONDS = 0.05
"""Minimum time between a lease that emptied the bucket and the next one."""
UNLIMITED_SECONDS = 1.0
"""Time without limits after the database was unavailable, before it is queried again."""
BUCKETS_MAX = 10_000
"""Maximum number of subjects whose leases are cached; the tokens of the least recently used one expire."""
DEVICE_LOGINS = Limit(per_second=1, burst=10)
"""Log-ins from one known device, successful or not."""
SHARE_AT_LIMIT = 0.2
"""The share of the tokens of a second that a client at its limit may use in a burst: several PAUSE_SECONDS."""
TOKENS_AT_LIMIT_MIN = 2


class LeasedTokens:
    """The tokens of one subject that this process has leased."""

    __slots__ = (
        "_block",
        "_clock",
        "_empty_until",
        "_expires_at",
        "_granted",
        "_limit",
        "_lock",
        "_subject",
        "_tokens",
        "_unlimited_until",
    )

    def __init__(self, subject: str, limit: Limit, clock: Callable[[], float] = time.monotonic) -> None:
        self._subject, self._limit, self._clock = subject, limit, clock
        self._lock = threading.Lock()
        self._tokens = self._granted = 0
        self._block = 1
        self._expires_at = self._empty_until = self._unlimited_until = 0.0

    def take(self) -> float:
        """Spend a token, and lease more if necessary; return the seconds to wait if there is none, or else 0."""
        with self._lock:
            now = self._clock()
            if (self._tokens == 0 or now >= self._expires_at) and now >= max(self._empty_until, self._unlimited_until):
                self._lease(now)
            if now < self._expires_at and self._tokens > 0:
                self._tokens -= 1
                return 0.0
            return 0.0 if now < self._unlimited_until else self._empty_until - now

    @property
    def is_unlimited(self) -> bool:
        """Return whether the limit does not apply, because the database was unavailable."""
        return self._clock() < self._unlimited_until

    def _lease(self, now: float) -> None:
        largest = max(1, int(self._limit.per_second * BLOCK_SHARE))
        self._block = min(largest, self._block * 2) if self._tokens == 0 else max(1, self._granted - self._tokens)
        try:
            with db.autocommit() as connection:
                leased = rate_limits.lease(connection, self._subject, self._limit, self._block)
        except db.UNAVAILABLE as exc:
            logger.warning("No rate limits for {:g} s: {}", UNLIMITED_SECONDS, reason_of(exc))
            self._unlimited_until = self._clock() + UNLIMITED_SECONDS  # the failed query may have taken a while
            return
        self._granted = self._tokens = leased.granted
        self._expires_at = now + LEASE_SECONDS
        if leased.granted < self._block:
            self._empty_until = now + max(leased.wait_seconds, PAUSE_SECONDS)


leased_tokens = lru_cache(maxsize=BUCKETS_MAX)(LeasedTokens)
"""The cached tokens of a subject with a limit."""


def admit_caller(subject: str, merchant_id: UUID | None) -> None:
    """Admit a request of this API client or user. An operator has no merchant.

    Raises:
        RateLimited: the caller exceeds RATE_LIMIT_PER_SECOND, or all callers of the merchant together exceed
            MERCHANT_RATE_LIMIT_PER_SECOND.
    """
    per_second = settings().rate_limit_per_second
    if per_second and not _admit(f"caller:{subject}", _limit_of_caller(per_second), "this API client or user"):
        return  # the database is unavailable: do not query it a second time
    per_second = settings().merchant_rate_limit_per_second
    if per_second and merchant_id is not None:
        _admit(f"merchant:{merchant_id}", _limit_of_caller(per_second), "this merchant, all its API clients together")


@cache
def _limit_of_caller(per_second: int) -> Limit:
    usable = max(TOKENS_AT_LIMIT_MIN, int(per_second * SHARE_AT_LIMIT))
    return Limit(per_second, per_second, max(0, per_second - usable))


def admit_address(address: str | None) -> None:
    """Admit a request without an access token from this address.

    Raises:
        RateLimited: the address exceeds AUTH_RATE_LIMIT_PER_SECOND.
    """
    config = settings()
    if config.auth_rate_limit_per_second:
        limit = Limit(config.auth_rate_limit_per_second, config.auth_rate_limit_burst)
        _admit(f"address:{rate_limits.network_of(address)}", limit)


def admit_device(device_id: bytes) -> None:
    """Admit a log-in from this known device, regardless of its address.

    Raises:
        RateLimited: the device exceeds DEVICE_LOGINS.
    """
    if settings().auth_rate_limit_per_second:
        _admit(f"device:{device_id.hex()}", DEVICE_LOGINS)


def _admit(subject: str, limit: Limit, limited: str | None = None) -> bool:
    """Admit a request if its limit allows it; return False if the limit does not apply, for lack of the database."""
    tokens = leased_tokens(subject, limit)
    wait_seconds = tokens.take()
    if wait_seconds > 0:
        detail = f"Too many requests of {limited}: the limit is {limit.per_second:g} per second." if limited else ""
        raise RateLimited(detail, headers={"Retry-After": str(math.ceil(wait_seconds))})
    return not tokens.is_unlimited


def forget() -> None:
    """Discard all leased tokens."""
    leased_tokens.cache_clear()
