"""Secrets that must be read again, such as those that sign webhooks: stored encrypted, never in the clear.

The keys are the lines of `webhook-secrets.key` in `KEYS_DIR`, made on first start. The first one encrypts, all of them
decrypt, so that a new key is added at the end, and moved to the top once every process has been restarted with it.
"""

from functools import cache, lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from gateway.config import ConfigError
from gateway.errors import PermanentError
from gateway.security import key_files, signing_keys

_FILE = "webhook-secrets.key"
_KNOWN_MAX = 4_096


class UnreadableSecret(PermanentError):
    """No key of this gateway decrypts the secret."""

    code = "unreadable_secret"
    remedy = "Rotate the secret of the endpoint."


def encrypt(secret: str) -> bytes:
    """What is stored of a secret: Fernet, that is AES-128-CBC with HMAC-SHA256 (https://github.com/fernet/spec).

    Raises:
        ConfigError: the keys cannot be read or made.
    """
    return _keys().encrypt(secret.encode())


@lru_cache(_KNOWN_MAX)
def decrypt(stored: bytes) -> str:
    """The secret that `encrypt` stored.

    Raises:
        ConfigError: the keys cannot be read or made.
        UnreadableSecret: none of them is the one that encrypted.
    """
    try:
        return _keys().decrypt(stored).decode()
    except InvalidToken:
        raise UnreadableSecret(f"No key in {_FILE} of KEYS_DIR decrypts it; restore the file.") from None


def make_ready() -> None:
    """Make what is missing and read it once, so that a process without keys fails at its start.

    Raises:
        ConfigError: the keys cannot be read or made.
    """
    _keys()


@cache
def _keys() -> MultiFernet:
    path = signing_keys.prepared_folder() / _FILE
    try:
        if not path.exists():
            key_files.publish(path, Fernet.generate_key())
        return MultiFernet([Fernet(line) for line in path.read_bytes().split()])
    except (OSError, ValueError) as exc:
        raise ConfigError(f"KEYS_DIR: {path} cannot be used: {exc}") from None
