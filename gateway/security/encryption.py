"""Encrypt secrets that must be readable, such as those that sign webhooks, before they are stored.

The keys are the lines of `webhook-secrets.key` in `KEYS_DIR`, which is created at the first start. The first key
encrypts, all keys decrypt. To rotate, add a new key at the end, restart every process, and move the key to the top.
"""

from functools import cache, lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from gateway.config import ConfigError
from gateway.errors import PermanentError
from gateway.security import key_files, signing_keys

_FILE = "webhook-secrets.key"
_CACHE_SIZE = 4_096


class UnreadableSecret(PermanentError):
    """No key decrypts the secret."""

    code = "unreadable_secret"
    remedy = "Rotate the secret of the endpoint."


def encrypt(secret: str) -> bytes:
    """Encrypt a secret with Fernet: AES-128-CBC with HMAC-SHA256 (https://github.com/fernet/spec).

    Raises:
        ConfigError: the keys cannot be read or created.
    """
    return keys().encrypt(secret.encode())


@lru_cache(_CACHE_SIZE)
def decrypt(stored: bytes) -> str:
    """Decrypt a secret that `encrypt` returned.

    Raises:
        ConfigError: the keys cannot be read or created.
        UnreadableSecret: the key that encrypted it is missing.
    """
    try:
        return keys().decrypt(stored).decode()
    except InvalidToken:
        raise UnreadableSecret(f"No key in {_FILE} of KEYS_DIR decrypts the secret; restore the file.") from None


def make_ready() -> None:
    """Create the keys if they are missing and read them, so that a process without keys fails at its start.

    Raises:
        ConfigError: the keys cannot be read or created.
    """
    keys()


@cache
def keys() -> MultiFernet:
    """Return the keys of this process.

    Raises:
        ConfigError: the keys cannot be read or created.
    """
    path = signing_keys.prepared_folder() / _FILE
    try:
        if not path.exists():
            key_files.publish(path, Fernet.generate_key())
        return MultiFernet([Fernet(line) for line in path.read_bytes().split()])
    except (OSError, ValueError) as exc:
        raise ConfigError(f"KEYS_DIR: {path} cannot be used: {exc}") from None
