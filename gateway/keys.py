"""The keys of this gateway: RSA keys that sign access tokens, and the HMAC key of the client secrets.

They are files in `KEYS_DIR`, made on first start and shared by all processes (and hosts) of one gateway. Signing keys
are numbered, `signing-0001.pem` and up: the highest signs, all of them verify, so adding a file rotates the key
and removing the old one later retires it. A key's id is its RFC 7638 thumbprint. Losing the HMAC key makes every
client secret invalid; losing a signing key makes the tokens that it signed invalid.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from loguru import logger

from gateway.config import ConfigError, settings

RSA_BITS = 2048
RSA_EXPONENT = 65537
HMAC_KEY_BYTES = 32
RELOAD_SECONDS = 1.0
"""A key file that was added or removed is noticed after this time, without a restart."""

_HMAC_FILE = "client-secrets.key"
_FIRST_SIGNING_FILE = "signing-0001.pem"
_SIGNING_FILES = "signing-*.pem"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One RSA key pair; `key_id` goes into the `kid` header of the tokens that it signs."""

    key_id: str
    private: rsa.RSAPrivateKey
    public: rsa.RSAPublicKey

    @classmethod
    def of(cls, private: rsa.RSAPrivateKey) -> "SigningKey":
        public = private.public_key()
        return cls(_thumbprint(public), private, public)

    def as_jwk(self) -> dict[str, str]:
        """The public half as a JSON Web Key (RFC 7517)."""
        return {**_public_members(self.public), "use": "sig", "alg": "RS256", "kid": self.key_id}


class KeyRing:
    """The signing keys of a folder, read again when the folder changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checked_at = time.monotonic()
        self._changed_at = folder.stat().st_mtime_ns
        self._keys = _read_signing_keys(folder)

    def _current(self) -> dict[str, SigningKey]:
        now = time.monotonic()
        if now - self._checked_at >= RELOAD_SECONDS:
            self._checked_at = now
            try:
                changed_at = self._folder.stat().st_mtime_ns
                if changed_at != self._changed_at:
                    self._keys, self._changed_at = _read_signing_keys(self._folder), changed_at
            except (OSError, ConfigError) as exc:
                logger.error("The signing keys cannot be read again; the known ones stay in use: {}", exc)
        return self._keys

    def newest(self) -> SigningKey:
        """The key that signs."""
        return next(reversed(self._current().values()))

    def find(self, key_id: str) -> SigningKey | None:
        """The key with this id, if it is one of ours."""
        return self._current().get(key_id)

    def as_jwks(self) -> dict[str, list[dict[str, str]]]:
        """All public keys as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [key.as_jwk() for key in self._current().values()]}


@cache
def key_ring() -> KeyRing:
    """This process's signing keys.

    Raises:
        ConfigError: the folder of the keys, or a key in it, cannot be read or made.
    """
    return KeyRing(_prepared_folder())


def hash_secret(secret: str) -> bytes:
    """What is stored of a client secret: its HMAC-SHA256. A random secret of 256 bits needs no slow hash."""
    return hmac.digest(_hmac_key(), secret.encode(), hashlib.sha256)


def secret_matches(secret: str, stored: bytes) -> bool:
    """Whether `stored` is the hash of `secret`, in constant time."""
    return hmac.compare_digest(hash_secret(secret), stored)


def make_ready() -> None:
    """Make what is missing and read everything once, so that a process without keys fails at its start.

    Raises:
        ConfigError: the folder of the keys, or a key in it, cannot be read or made.
    """
    key_ring()
    _hmac_key()


@cache
def _hmac_key() -> bytes:
    path = _prepared_folder() / _HMAC_FILE
    try:
        if not path.exists():
            _publish(path, secrets.token_hex(HMAC_KEY_BYTES).encode())
        key = bytes.fromhex(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"KEYS_DIR: {path} cannot be used: {exc}") from None
    if len(key) != HMAC_KEY_BYTES:
        raise ConfigError(f"KEYS_DIR: {path} must hold {HMAC_KEY_BYTES} bytes in hexadecimal")
    return key


@cache
def _prepared_folder() -> Path:
    folder = settings().keys_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            logger.warning("KEYS_DIR: others than its owner may look into {}; chmod 700 keeps them out", folder)
        if not any(folder.glob(_SIGNING_FILES)):
            _publish(folder / _FIRST_SIGNING_FILE, _new_private_key())
    except OSError as exc:
        raise ConfigError(f"KEYS_DIR: {folder} cannot be used: {exc}") from None
    return folder


def _publish(path: Path, content: bytes) -> None:
    """Write a key file that is complete whenever it is seen; of two processes at once the first one wins."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _new_private_key() -> bytes:
    return rsa.generate_private_key(RSA_EXPONENT, RSA_BITS).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_signing_keys(folder: Path) -> dict[str, SigningKey]:
    keys = {}
    for path in sorted(folder.glob(_SIGNING_FILES)):
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as exc:
            raise ConfigError(f"KEYS_DIR: {path} cannot be used: {exc}") from None
        if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < RSA_BITS:
            raise ConfigError(f"KEYS_DIR: {path} must hold an RSA key of at least {RSA_BITS} bits")
        key = SigningKey.of(private)
        keys[key.key_id] = key
    if not keys:
        raise ConfigError(f"KEYS_DIR: there is no {_SIGNING_FILES} in {folder}")
    return keys


def _public_members(public: rsa.RSAPublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    return {"kty": "RSA", "n": _base64_integer(numbers.n), "e": _base64_integer(numbers.e)}


def _base64_integer(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _thumbprint(public: rsa.RSAPublicKey) -> str:
    canonical = json.dumps(_public_members(public), sort_keys=True, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
