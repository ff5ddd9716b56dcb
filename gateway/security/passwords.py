"""Passwords: Argon2id hashes, with a bound on how many are computed at once.

Each hash takes about 20 MiB and 20 ms of CPU (OWASP's recommended parameters). Without a bound, a burst of logins would
take the memory and every thread that payments need, so requests above the bound are rejected and may be repeated. Known
devices have a separate lane, so that wrong passwords from other devices do not delay them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.errors import TransientError

PASSWORD_MIN_LENGTH = 12
PASSWORD_MAX_LENGTH = 128

RETRY_AFTER_SECONDS = "1"

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class TooManyLogins(TransientError):
    """Too many passwords are being checked at the moment."""


class Lane:
    """A limit of concurrent Argon2 computations in one process, and of threads that wait for them."""

    def __init__(self, *, at_once: int, waiting: int) -> None:
        self.at_once = at_once
        self.places = at_once + waiting
        self.admitted = threading.BoundedSemaphore(self.places)
        self.turn = threading.BoundedSemaphore(at_once)


UNKNOWN_DEVICES = Lane(at_once=1, waiting=6)
KNOWN_DEVICES = Lane(at_once=1, waiting=2)


@contextmanager
def _place(*lanes: Lane) -> Iterator[Lane]:
    """Hold a place within the block, in the first of `lanes` that has one."""
    lane = next((lane for lane in lanes if lane.admitted.acquire(blocking=False)), None)
    if lane is None:
        raise TooManyLogins(headers={"Retry-After": RETRY_AFTER_SECONDS})
    try:
        yield lane
    finally:
        lane.admitted.release()


def hash_password(password: str) -> str:
    """The Argon2id hash to store.

    Raises:
        TooManyLogins: the bound is reached; nothing was computed.
    """
    with _place(UNKNOWN_DEVICES) as lane, lane.turn:
        return _hasher.hash(password)


@cache
def _nobodys_hash() -> str:
    return _hasher.hash("the password of nobody")


def verify_password(password: str, stored: str | None) -> bool:
    """Whether `password` is the one of the hash `stored`. None, for a user who does not exist, takes as long.

    Raises:
        TooManyLogins: the bound is reached; nothing was computed.
    """
    with verification(UNKNOWN_DEVICES) as verify:
        return verify(password, stored)


@contextmanager
def verification(*lanes: Lane) -> Iterator[Callable[[str, str | None], bool]]:
    """Hold a place within the block, in the first of `lanes` that has one; yield the function that checks a password.

    Raises:
        TooManyLogins: no lane has a free place.
    """
    with _place(*lanes) as lane:
        yield partial(_verify, lane)


def _verify(lane: Lane, password: str, stored: str | None) -> bool:
    with lane.turn:
        try:
            _hasher.verify(stored or _nobodys_hash(), password)
        except (VerificationError, InvalidHashError):
            return False
    return stored is not None
