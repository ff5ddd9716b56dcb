"""Issue and read device tokens. A log-in issues one, so that the next log-in from the same device is recognized.

A token is encrypted and authenticated (Fernet). It contains digests of the account and of its password hash, and a
device id. It is valid for that account only, becomes invalid when the password changes, and discloses nothing. It
grants no access: with it, wrong passwords are counted per device, independently of other clients (login_limits.py).

The keys are the lines of `device-tokens.key` in `KEYS_DIR`, which is created at the first start. The first key
encrypts, all keys decrypt. To rotate, add a new key at the end, and move it to the top a few seconds later. Every
process reads the file again when it changes, so deleting a line invalidates its tokens immediately.
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

from gateway.clock import database_clock
from gateway.config import ConfigError
from gateway.security import key_files, signing_keys

DEVICE_TOKEN_DAYS = 90
DEVICE_TOKEN_SECONDS = DEVICE_TOKEN_DAYS * 86_400
TOKEN_MAX_LENGTH = 256
"""No issued token is longer; a longer one is rejected without decryption."""

_FILE = "device-tokens.key"
_ACCOUNT_BYTES, _DEVICE_BYTES, _PASSWORD_BYTES = 32, 16, 16


@dataclass(frozen=True, slots=True)
class Device:
    """A device that has logged in to an account. `password` is the digest of the password hash at that time."""

    account: bytes
    id: bytes
    password: bytes

    def belongs_to(self, email: str) -> bool:
        """Return whether it has logged in to the account of `email`."""
        return self.account == _account_of(email)

    def knows(self, password_hash: str) -> bool:
        """Return whether the account's password is unchanged since that log-in."""
        return self.password == _digest_of(password_hash)


def issue(email: str, password_hash: str, known: Device | None) -> str:
    """Return a new token of a device after a log-in to the account of `email`; a `known` device keeps its id.

    Raises:
        ConfigError: the keys cannot be read or created.
    """
    device_id = known.id if known is not None else secrets.token_bytes(_DEVICE_BYTES)
    content = _account_of(email) + device_id + _digest_of(password_hash)
    return keys().current().encrypt_at_time(content, _now()).decode()


def read(token: str) -> Device | None:
    """Return the device of `token`; None if the token is invalid or older than `DEVICE_TOKEN_DAYS`.

    Raises:
        ConfigError: the keys cannot be read or created.
    """
    if len(token) > TOKEN_MAX_LENGTH or not token.isascii():
        return None
    try:
        content = keys().current().decrypt_at_time(token.encode(), DEVICE_TOKEN_SECONDS, _now())
    except InvalidToken:
        return None
    account, rest = content[:_ACCOUNT_BYTES], content[_ACCOUNT_BYTES:]
    return Device(account, rest[:_DEVICE_BYTES], rest[_DEVICE_BYTES:])


def _now() -> int:
    """Return the database's time, so that all hosts agree; before it is known, that of this host."""
    return database_clock.now_ns() // 10**9 if database_clock.is_known() else int(time.time())


def revoke_all() -> None:
    """Replace all keys by a new one, which invalidates all device tokens.

    Raises:
        OSError: the folder of the keys is not writable.
    """
    key_files.replace(signing_keys.prepared_folder() / _FILE, Fernet.generate_key())


def make_ready() -> None:
    """Create the keys if they are missing and read them, so that a process without keys fails at its start.

    Raises:
        ConfigError: the keys cannot be read or created.
    """
    keys()


def _account_of(email: str) -> bytes:
    return hashlib.sha256(email.encode()).digest()


def _digest_of(password_hash: str) -> bytes:
    return hashlib.sha256(password_hash.encode()).digest()[:_PASSWORD_BYTES]


class _Keys:
    """The keys of a file, which are read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _version_of(path)
        self._fernet = _read(path)

    def current(self) -> MultiFernet:
        """Return the keys in use."""
        try:
            version = _version_of(self._path)
            if version != self._version:
                self._fernet, self._version = _read(self._path), version
        except (OSError, ValueError) as exc:
            logger.error("The keys of device tokens cannot be reloaded; the previous ones stay in use: {}", exc)
        return self._fernet


def _version_of(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> MultiFernet:
    return MultiFernet([Fernet(line) for line in path.read_bytes().split()])


@cache
def keys() -> _Keys:
    """Return the keys of this process.

    Raises:
        ConfigError: the keys cannot be read or created.
    """
    path = signing_keys.prepared_folder() / _FILE
    try:
        if not path.exists():
            key_files.publish(path, Fernet.generate_key())
        return _Keys(path)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"KEYS_DIR: {path} cannot be used: {exc}") from None
