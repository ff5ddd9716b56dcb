"""Signing webhooks as Standard Webhooks says, so that merchants verify them with a library of theirs.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105  # the prefix only
SECRET_BYTES = 32
"""The specification asks for 24 to 64."""
VERSION = "v1"


def new_secret() -> str:
    """A random secret, as the merchant's library takes it."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(keys: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each of `keys`, of which a receiver needs to know one.

    Args:
        keys: secrets of `new_secret`.
        message_id: the value of `webhook-id`.
        timestamp: of this attempt, the value of `webhook-timestamp`: Unix time in seconds.
        body: exactly what is sent.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(base64.b64decode(key.removeprefix(SECRET_PREFIX)), content, hashlib.sha256) for key in keys)
    return " ".join(f"{VERSION},{base64.b64encode(digest).decode()}" for digest in digests)
