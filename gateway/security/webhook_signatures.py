"""Sign webhooks according to Standard Webhooks, so that merchants can verify them with an existing library.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105  # the prefix only
SECRET_BYTES = 32
"""The specification requires 24 to 64."""
VERSION = "v1"


def new_secret() -> str:
    """Return a random secret in the format of the specification."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(keys: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one signature for each of `keys`. A receiver needs one of the keys.

    Args:
        keys: secrets that `new_secret` returned.
        message_id: the value of `webhook-id`.
        timestamp: the value of `webhook-timestamp`, the Unix time of this attempt in seconds.
        body: the body of the request, byte for byte.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(base64.b64decode(key.removeprefix(SECRET_PREFIX)), content, hashlib.sha256) for key in keys)
    return " ".join(f"{VERSION},{base64.b64encode(digest).decode()}" for digest in digests)
