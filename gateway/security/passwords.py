"""Hash passwords with Argon2id, and limit the number of concurrent computations.

A hash takes about 20 MiB and 20 ms of CPU (OWASP's recommended parameters). Without a limit, a burst of log-ins would
use the memory and the threads that payments need. Log-ins above the limit are rejected and can be repeated. Known
devices have a separate lane, so that wrong passwords from other devices do not delay them.
"""

import secrets
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

hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class TooManyLogins(TransientError):
    """Too many passwords are being checked."""


class Lane:
    """Limits concurrent Argon2 computations in one process, and the threads that wait for them."""

    def __init__(self, *, at_once: int, waiting: int) -> None:
        self.at_once = at_once
        self.places = at_once + waiting
        self.admitted = threading.BoundedSemaphore(self.places)
        self.turn = threading.BoundedSemaphore(at_once)


UNKNOWN_DEVICES = Lane(at_once=1, waiting=6)
KNOWN_DEVICES = Lane(at_once=1, waiting=2)


@contextmanager
def _place(*lanes: Lane) -> Iterator[Lane]:
    """Hold a place in the first of `lanes` that has one during the block."""
    lane = next((lane for lane in lanes if lane.admitted.acquire(blocking=False)), None)
    if lane is None:
        raise TooManyLogins(headers={"Retry-After": RETRY_AFTER_SECONDS})
    try:
        yield lane
    finally:
        lane.admitted.release()


def hash_password(password: str) -> str:
    """Return the Argon2id hash of a password.

    Raises:
        TooManyLogins: the limit is reached; nothing was computed.
    """
    with _place(UNKNOWN_DEVICES) as lane, lane.turn:
        return hasher.hash(password)


@cache
def hash_of_unknown_user() -> str:
    """Return the hash that is verified for a user who does not exist, so that the response takes as long."""
    return hasher.hash(secrets.token_urlsafe())


def verify_password(password: str, stored: str | None) -> bool:
    """Return whether `password` matches the hash `stored`. None, for a user who does not exist, takes as long.

    Raises:
        TooManyLogins: the limit is reached; nothing was computed.
    """
    with verification(UNKNOWN_DEVICES) as verify:
        return verify(password, stored)


@contextmanager
def verification(*lanes: Lane) -> Iterator[Callable[[str, str | None], bool]]:
    """Hold a place in the first of `lanes` that has one during the block; yield a function that checks a password.

    Raises:
        TooManyLogins: no lane has a free place.
    """
    with _place(*lanes) as lane:
        yield partial(_verify, lane)


def _verify(lane: Lane, password: str, stored: str | None) -> bool:
    with lane.turn:
        try:
            hasher.verify(stored or hash_of_unknown_user(), password)
        except (VerificationError, InvalidHashError):
            return False
    return stored is not None
