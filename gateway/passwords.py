"""Passwords: Argon2id hashes, with a bound on how many are computed at once.

Each hash takes about 20 MiB and 20 ms of CPU (OWASP's recommended parameters). Without a bound, a burst of logins would
take the memory and every thread that payments need, so what exceeds the bound is told to come again.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.errors import TransientError

PASSWORD_MIN_LENGTH = 12
PASSWORD_MAX_LENGTH = 128

HASHES_AT_ONCE = 2
"""Argon2 computations at the same time in one process."""
HASHES_WAITING = 6
"""Threads that may wait for their turn; more are refused."""
RETRY_AFTER_SECONDS = "1"

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_admitted = threading.BoundedSemaphore(HASHES_AT_ONCE + HASHES_WAITING)
_turn = threading.BoundedSemaphore(HASHES_AT_ONCE)


class TooManyLogins(TransientError):
    """Too many passwords are being checked at the moment."""


@contextmanager
def _bounded() -> Iterator[None]:
    if not _admitted.acquire(blocking=False):
        raise TooManyLogins(headers={"Retry-After": RETRY_AFTER_SECONDS})
    try:
        with _turn:
            yield
    finally:
        _admitted.release()


def hash_password(password: str) -> str:
    """The Argon2id hash to store.

    Raises:
        TooManyLogins: the bound is reached; nothing was computed.
    """
    with _bounded():
        return _hasher.hash(password)


@cache
def _nobodys_hash() -> str:
    return _hasher.hash("the password of nobody")


def verify_password(password: str, stored: str | None) -> bool:
    """Whether `password` is the one of the hash `stored`. None, for a user who does not exist, takes as long.

    Raises:
        TooManyLogins: the bound is reached; nothing was computed.
    """
    with _bounded():
        try:
            _hasher.verify(stored or _nobodys_hash(), password)
        except (VerificationError, InvalidHashError):
            return False
    return stored is not None
