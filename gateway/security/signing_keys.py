"""Manage the RSA keys that sign access tokens.

They are files in `KEYS_DIR`, which is created at the first start and shared by all processes and hosts of a gateway.
Keys are numbered from `signing-0001.pem`. The id of a key is its RFC 7638 thumbprint. Without a key the tokens that it
signed are invalid.

Rotation: a key is published and verifies as soon as its file exists. It signs when the file is `OVERLAP_SECONDS` old,
because then every host and cache has it. It is retired when a higher key has signed for longer than the lifetime of any
token (`RETIRED_AFTER_SECONDS`). Of several keys that may sign, the highest signs; if none may, the lowest signs. All
processes therefore agree by reading the files, and deleting a file revokes its key within about a second.
"""

import base64
import contextlib
import hashlib
import json
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from loguru import logger

from gateway.config import ConfigError, settings
from gateway.config.groups import ACCESS_TOKEN_SECONDS_MAX
from gateway.security.key_files import locked, publish

RSA_BITS = 2048
RSA_EXPONENT = 65537
RELOAD_SECONDS = 1.0
"""Interval at which the folder is checked for added and removed keys."""
JWKS_CACHE_SECONDS = 300
"""Time for which clients may cache the published keys."""
OVERLAP_SECONDS = 2 * JWKS_CACHE_SECONDS
"""Age at which a key begins to sign: caches have expired, and hosts with a lagging clock or folder have it."""
CLOCK_TOLERANCE_SECONDS = 60
"""Maximum difference between the clocks of hosts at which no token is accepted too long."""
RETIRED_AFTER_SECONDS = OVERLAP_SECONDS + ACCESS_TOKEN_SECONDS_MAX + CLOCK_TOLERANCE_SECONDS
"""Age at which a key retires the lower ones: every token that they signed has expired."""
REPLACE_TRIES_MAX = 10  # of `replace_all`, when other processes create keys at the same time

_SIGNING_FILE = "signing-{:04}.pem"
_SIGNING_FILES = "signing-*.pem"


class KeyState(StrEnum):
    """The state of a signing key. All keys except retired ones are published and verify."""

    NEXT = "next"
    SIGNING = "signing"
    VERIFYING = "verifying"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An RSA key pair. `key_id` is the `kid` header of its tokens, `made_at` a Unix time."""

    key_id: str
    private: rsa.RSAPrivateKey = field(compare=False)
    public: rsa.RSAPublicKey = field(compare=False)
    path: Path
    made_at: float

    @classmethod
    def read(cls, path: Path, made_at: float) -> "SigningKey":
        """Read the key in the file at `path`.

        Raises:
            ConfigError: it is not a suitable RSA key.
        """
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as exc:
            raise ConfigError(f"KEYS_DIR: {path} cannot be used: {exc}") from None
        if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < RSA_BITS:
            raise ConfigError(f"KEYS_DIR: {path} must contain an RSA key of at least {RSA_BITS} bits")
        public = private.public_key()
        return cls(thumbprint(public), private, public, path, made_at)

    def as_jwk(self) -> dict[str, str]:
        """Return the public key as a JSON Web Key (RFC 7517)."""
        return {**_public_members(self.public), "use": "sig", "alg": "RS256", "kid": self.key_id}


def states_of(keys: Sequence[SigningKey], now: float) -> list[KeyState]:
    """Return the state of each of `keys`, lowest first, at the Unix time `now`."""
    ages = [now - key.made_at for key in keys]
    signing = max((at for at, age in enumerate(ages) if age >= OVERLAP_SECONDS), default=0)
    retiring = max((at for at, age in enumerate(ages) if age >= RETIRED_AFTER_SECONDS), default=0)

    def state(at: int) -> KeyState:
        if at < signing:
            return KeyState.RETIRED if at < retiring else KeyState.VERIFYING
        return KeyState.SIGNING if at == signing else KeyState.NEXT

    return [state(at) for at in range(len(keys))]


class KeyRing:
    """The signing keys of a folder. They are read again when its files change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checked_at = time.monotonic()
        self._files = _signing_files(folder)
        self._keys = _read_signing_keys(self._files)
        self._generation = 0

    def with_states(self) -> list[tuple[SigningKey, KeyState]]:
        """Return all keys, lowest first, each with its current state."""
        self._reload()
        return list(zip(self._keys, states_of(self._keys, time.time()), strict=True))

    def generation(self) -> int:
        """Return a number that changes whenever the keys in use change."""
        self._reload()
        return self._generation

    def _reload(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < RELOAD_SECONDS:
            return
        self._checked_at = now
        try:
            files = _signing_files(self._folder)
            if files != self._files:
                self._keys, self._files = _read_signing_keys(files), files
                self._generation += 1
        except (OSError, ConfigError) as exc:
            logger.error("The signing keys cannot be reloaded; the previous ones stay in use: {}", exc)

    def signing(self) -> SigningKey:
        """Return the key that signs."""
        return next(key for key, state in self.with_states() if state is KeyState.SIGNING)

    def find(self, key_id: str) -> SigningKey | None:
        """Return the key with this id if it verifies, else None."""
        return next((key for key in self._verifying() if key.key_id == key_id), None)

    def as_jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys that verify as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [key.as_jwk() for key in self._verifying()]}

    def _verifying(self) -> list[SigningKey]:
        return [key for key, state in self.with_states() if state is not KeyState.RETIRED]

    def add_key(self) -> Path | None:
        """Create the next key and return its file; None if the previous new key does not sign yet.

        Raises:
            OSError: the folder is not writable.
        """
        keys = self.with_states()
        number = 1 + max(_number_of(key.path) for key, _ in keys)
        path = self._folder / _SIGNING_FILE.format(number)
        waits = any(state is KeyState.NEXT for _, state in keys)
        return path if not waits and publish(path, new_private_key()) else None

    def remove_retired(self) -> list[Path]:
        """Delete the files of retired keys and return them.

        Raises:
            OSError: the folder is not writable.
        """
        retired = [key.path for key, state in self.with_states() if state is KeyState.RETIRED]
        for path in retired:
            path.unlink(missing_ok=True)
        return retired

    def replace_all(self) -> tuple[Path, list[Path]]:
        """Create a key that signs immediately and delete all lower ones; return the new file and the deleted files.

        Concurrent calls are serialized, so no number is used twice. Raises OSError like `add_key`.
        """
        private = new_private_key()
        with locked(self._folder):
            for _ in range(REPLACE_TRIES_MAX):
                number = 1 + max(map(_number_of, self._folder.glob(_SIGNING_FILES)), default=0)
                created = self._folder / _SIGNING_FILE.format(number)
                if publish(created, private):
                    lower = [path for path in self._folder.glob(_SIGNING_FILES) if _number_of(path) < number]
                    for path in lower:
                        path.unlink(missing_ok=True)
                    return created, sorted(lower, key=_number_of)
        raise FileExistsError(f"{self._folder}: other processes keep creating keys")


@cache
def key_ring() -> KeyRing:
    """Return the signing keys of this process.

    Raises:
        ConfigError: the folder or a key cannot be read or created.
    """
    return KeyRing(prepared_folder())


def make_ready() -> None:
    """Create a signing key if there is none and read all keys, so that a process without keys fails at its start.

    Raises:
        ConfigError: the folder or a key cannot be read or created.
    """
    key_ring()


@cache
def prepared_folder() -> Path:
    """Return the folder of the keys. It is created with a first signing key if it does not exist.

    Raises:
        ConfigError: the folder cannot be read or created.
    """
    folder = settings().keys_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            logger.warning("KEYS_DIR: users other than the owner can read {}; run chmod 700", folder)
        if not any(folder.glob(_SIGNING_FILES)):
            publish(folder / _SIGNING_FILE.format(1), new_private_key())
    except OSError as exc:
        raise ConfigError(f"KEYS_DIR: {folder} cannot be used: {exc}") from None
    return folder


def new_private_key() -> bytes:
    """Return a new RSA key as PEM."""
    return rsa.generate_private_key(RSA_EXPONENT, RSA_BITS).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _signing_files(folder: Path) -> list[tuple[Path, float]]:
    """Return the key files, lowest number first, each with its modification time."""
    found = []
    for path in sorted(folder.glob(_SIGNING_FILES), key=_number_of):
        with contextlib.suppress(FileNotFoundError):  # deleted a moment ago
            found.append((path, path.stat().st_mtime))
    return found


def _number_of(path: Path) -> int:
    number = path.stem.rpartition("-")[2]
    if not (number.isascii() and number.isdigit()):
        raise ConfigError(f"KEYS_DIR: {path} must have a numbered name such as {_SIGNING_FILE.format(1)}")
    return int(number)


def _read_signing_keys(files: Sequence[tuple[Path, float]]) -> list[SigningKey]:
    if not files:
        raise ConfigError(f"KEYS_DIR: there is no {_SIGNING_FILES}")
    return [SigningKey.read(path, made_at) for path, made_at in files]


def _public_members(public: rsa.RSAPublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    return {"kty": "RSA", "n": _base64_integer(numbers.n), "e": _base64_integer(numbers.e)}


def _base64_integer(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def thumbprint(public: rsa.RSAPublicKey) -> str:
    """Return the thumbprint of RFC 7638."""
    canonical = json.dumps(_public_members(public), sort_keys=True, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
