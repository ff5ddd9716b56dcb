"""Device tokens: what a log-in leaves on a device, so that the next one is known to come from there.

A token is encrypted and authenticated (Fernet). It names the account, the device and the password that the account had,
so it works for that account only, ends when the password changes, and says nothing to whoever reads it. It gives no
access: with it, a wrong password is counted for the device, and not slowed by what others try (login_limits.py).

The keys are the lines of `device-tokens.key` in `KEYS_DIR`, made on first start. The first one encrypts, all of them
decrypt: add a new key at the end, and move it to the top a few seconds later. Every process reads the file again when
it changes, so deleting a line ends its tokens at once.
"""

import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from loguru import logger

from gateway import key_files, keys
from gateway.clock import database_clock
from gateway.config import ConfigError

DEVICE_TOKEN_DAYS = 90
DEVICE_TOKEN_SECONDS = DEVICE_TOKEN_DAYS * 86_400
TOKEN_MAX_LENGTH = 256
"""No token of ours is longer; anything longer is not looked at."""

_FILE = "device-tokens.key"
_ACCOUNT_BYTES, _DEVICE_BYTES, _PASSWORD_BYTES = 32, 16, 16


@dataclass(frozen=True, slots=True)
class Device:
    """A device that has logged in to an account. `password` is the digest of the password hash at that time."""

    account: bytes
    id: bytes
    password: bytes

    def belongs_to(self, email: str) -> bool:
        """Whether it has logged in to the account of `email`."""
        return self.account == _account_of(email)

    def knows(self, password_hash: str) -> bool:
        """Whether the account's password is still the one of that log-in."""
        return self.password == _digest_of(password_hash)


def issue(email: str, password_hash: str, known: Device | None) -> str:
    """Make the token of a device after a log-in to the account of `email`; a `known` device keeps its id.

    Raises:
        ConfigError: the keys cannot be read or made.
    """
    device_id = known.id if known is not None else secrets.token_bytes(_DEVICE_BYTES)
    content = _account_of(email) + device_id + _digest_of(password_hash)
    return _keys().current().encrypt_at_time(content, _now()).decode()


def read(token: str) -> Device | None:
    """Return the device of `token`, unless it was not issued here or is older than `DEVICE_TOKEN_DAYS`.

    Raises:
        ConfigError: the keys cannot be read or made.
    """
    if len(token) > TOKEN_MAX_LENGTH or not token.isascii():
        return None
    try:
        content = _keys().current().decrypt_at_time(token.encode(), DEVICE_TOKEN_SECONDS, _now())
    except InvalidToken:
        return None
    account, rest = content[:_ACCOUNT_BYTES], content[_ACCOUNT_BYTES:]
    return Device(account, rest[:_DEVICE_BYTES], rest[_DEVICE_BYTES:])


def _now() -> int:
    """Return the database's time, so that all hosts agree; before it is known, that of this host."""
    return database_clock.now_ns() // 10**9 if database_clock.is_known() else int(time.time())


def revoke_all() -> None:
    """Make a new key in the place of all others, so that no device is known any more.

    Raises:
        OSError: the folder of the keys cannot be written to.
    """
    key_files.replace(keys.prepared_folder() / _FILE, Fernet.generate_key())


def make_ready() -> None:
    """Make what is missing and read it once, so that a process without keys fails at its start.

    Raises:
        ConfigError: the keys cannot be read or made.
    """
    _keys()


def _account_of(email: str) -> bytes:
    return hashlib.sha256(email.encode()).digest()


def _digest_of(password_hash: str) -> bytes:
    return hashlib.sha256(password_hash.encode()).digest()[:_PASSWORD_BYTES]


class _Keys:
    """The keys of a file, read again when the file changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _version_of(path)
        self._fernet = _read(path)

    def current(self) -> MultiFernet:
        """The keys in use now."""
        try:
            version = _version_of(self._path)
            if version != self._version:
                self._fernet, self._version = _read(self._path), version
        except (OSError, ValueError) as exc:
            logger.error("The keys of device tokens cannot be read again; the known ones stay in use: {}", exc)
        return self._fernet


def _version_of(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> MultiFernet:
    return MultiFernet([Fernet(line) for line in path.read_bytes().split()])


@cache
def _keys() -> _Keys:
    path = keys.prepared_folder() / _FILE
    try:
        if not path.exists():
            key_files.publish(path, Fernet.generate_key())
        return _Keys(path)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"KEYS_DIR: {path} cannot be used: {exc}") from None
