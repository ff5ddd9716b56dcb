"""Hash the secrets of API clients with HMAC-SHA256.

The key is the file `client-secrets.key` in `KEYS_DIR`, which is created at the first start. Without it every client
secret is invalid.
"""

import hashlib
import hmac
import secrets
from functools import cache

from gateway.config import ConfigError
from gateway.security import signing_keys
from gateway.security.key_files import publish

KEY_BYTES = 32
_FILE = "client-secrets.key"


def hash_secret(secret: str) -> bytes:
    """Return the HMAC-SHA256 of a client secret. A random secret of 256 bits needs no slow hash."""
    return hmac.digest(_key(), secret.encode(), hashlib.sha256)


def secret_matches(secret: str, stored: bytes) -> bool:
    """Return whether `stored` is the hash of `secret`, in constant time."""
    return hmac.compare_digest(hash_secret(secret), stored)


def make_ready() -> None:
    """Create the key if it is missing and read it, so that a process without a key fails at its start.

    Raises:
        ConfigError: the key cannot be read or created.
    """
    _key()


@cache
def _key() -> bytes:
    path = signing_keys.prepared_folder() / _FILE
    try:
        if not path.exists():
            publish(path, secrets.token_hex(KEY_BYTES).encode())
        key = bytes.fromhex(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"KEYS_DIR: {path} cannot be used: {exc}") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"KEYS_DIR: {path} must contain {KEY_BYTES} bytes in hexadecimal")
    return key
