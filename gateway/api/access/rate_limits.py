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
"""How long leased tokens may be spent."""
BLOCK_SHARE = 0.05
"""The largest lease, of what a second brings: more processes than 1 / BLOCK_SHARE could hold a second's tokens idle."""
PAUSE_SECONDS = 0.05
"""The shortest time between a lease that emptied the bucket and the next one."""
BLIND_SECONDS = 1.0
"""How long everybody is let in after the database did not answer, before it is asked again."""
BUCKETS_MAX = 10_000
"""Subjects whose lease is kept; another one's is forgotten, and its tokens lapse."""
DEVICE_LOGINS = Limit(per_second=1, burst=10)
"""Log-ins from one known device, successful or not."""
PACED_SHARE = 0.2
"""Of a second's tokens, what a client that ran into its limit may use at once: worth several PAUSE_SECONDS."""
PACED_MIN = 2


class _Leased:
    """One subject's tokens in this process."""

    __slots__ = (
        "_blind_until",
        "_block",
        "_empty_until",
        "_expires_at",
        "_granted",
        "_limit",
        "_lock",
        "_subject",
        "_tokens",
    )

    def __init__(self, subject: str, limit: Limit) -> None:
        self._subject, self._limit = subject, limit
        self._lock = threading.Lock()
        self._tokens = self._granted = 0
        self._block = 1
        self._expires_at = self._empty_until = self._blind_until = 0.0

    def take(self) -> float:
        """Spend a token, after leasing some if need be; the seconds to wait if there is none."""
        with self._lock:
            now = time.monotonic()
            if (self._tokens == 0 or now >= self._expires_at) and now >= max(self._empty_until, self._blind_until):
                self._lease(now)
            if now < self._expires_at and self._tokens > 0:
                self._tokens -= 1
                return 0.0
            return 0.0 if now < self._blind_until else self._empty_until - now

    @property
    def is_blind(self) -> bool:
        """Whether the limit is not applied, because the database did not answer."""
        return time.monotonic() < self._blind_until

    def _lease(self, now: float) -> None:
        largest = max(1, int(self._limit.per_second * BLOCK_SHARE))
        self._block = min(largest, self._block * 2) if self._tokens == 0 else max(1, self._granted - self._tokens)
        try:
            with db.autocommit() as connection:
                leased = rate_limits.lease(connection, self._subject, self._limit, self._block)
        except db.UNAVAILABLE as exc:
            logger.warning("No rate limits for {:g} s: {}", BLIND_SECONDS, reason_of(exc))
            self._blind_until = time.monotonic() + BLIND_SECONDS  # the failure may have taken a while
            return
        self._granted = self._tokens = leased.granted
        self._expires_at = now + LEASE_SECONDS
        if leased.granted < self._block:
            self._empty_until = now + max(leased.wait_seconds, PAUSE_SECONDS)


_leased = lru_cache(maxsize=BUCKETS_MAX)(_Leased)


def admit_caller(subject: str, merchant_id: UUID | None) -> None:
    """Admit a request of this API client or user. An operator has no merchant.

    Raises:
        RateLimited: the caller exceeds RATE_LIMIT_PER_SECOND, or all callers of the merchant together exceed
            MERCHANT_RATE_LIMIT_PER_SECOND.
    """
    per_second = settings().rate_limit_per_second
    if per_second and not _admit(f"caller:{subject}", _limit_of_caller(per_second), "this API client or user"):
        return  # while the database is unavailable, it is not queried a second time
    per_second = settings().merchant_rate_limit_per_second
    if per_second and merchant_id is not None:
        _admit(f"merchant:{merchant_id}", _limit_of_caller(per_second), "this merchant, all its API clients together")


@cache
def _limit_of_caller(per_second: int) -> Limit:
    paced = max(PACED_MIN, int(per_second * PACED_SHARE))
    return Limit(per_second, per_second, max(0, per_second - paced))


def admit_address(address: str | None) -> None:
    """Let a request without a token in that comes from this address.

    Raises:
        RateLimited: from there come more than AUTH_RATE_LIMIT_PER_SECOND.
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


def _admit(subject: str, limit: Limit, whose: str | None = None) -> bool:
    """Admit a request if the limit allows it; return whether the limit is applied, that is, the database answered."""
    leased = _leased(subject, limit)
    wait_seconds = leased.take()
    if wait_seconds > 0:
        detail = f"Too many requests of {whose}: the limit is {limit.per_second:g} per second." if whose else ""
        raise RateLimited(detail, headers={"Retry-After": str(math.ceil(wait_seconds))})
    return not leased.is_blind
