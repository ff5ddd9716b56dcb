"""Remove secrets, tokens and card numbers from text before it is logged.

The gateway does not log them itself. They occur in messages and exceptions of libraries: a URL with its password, a
header, a row that PostgreSQL rejected.
"""

import re

from gateway.security.card_numbers import UUID_PATTERN, mask_card_numbers

REDACTED = "[redacted]"

_NAMES = "pass(?:word|wd)|secret|(?:api|private)[_-]?key|(?:access|refresh|id)[_-]token|authorization|cookie"
_VALUE = r"""b?"[^"]*"|b?'[^']*'|(?:(?:bearer|basic)\s+)?[^\s,;&'"})\]]+"""
_HINT = re.compile(
    r"eyj|whsec_|bearer|basic|://|-----begin|passw|secret|key|_token|-token|authorization|cookie|failing row"
)
"""Matches, in lower case, every text to which a rule applies. Most lines do not match, which saves time."""
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", REDACTED),
        (r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?", REDACTED),  # a JWT: {" in base64url
        (r"\b(whsec_)[\w+/=-]+", rf"\1{REDACTED}"),
        (r"\b(bearer|basic)\s+[\w.~+/=-]{16,}", rf"\1 {REDACTED}"),
        (r"(://[^\s/:@'\"]*:)[^\s/'\"]+(?=@)", rf"\1{REDACTED}"),  # the password of a URL
        # name=value, "name": "value", 'name': b'value', Name: Scheme value
        (rf"((?:{_NAMES})\w{{0,20}}['\"]?\s{{0,3}}[:=]\s{{0,3}})(?:{_VALUE})", rf"\1{REDACTED}"),
        # PostgreSQL's DETAIL about a rejected row
        (r"(Failing row contains )\(.*?\)(?=\.|\n|\Z)", rf"\1({REDACTED})"),
        (r"(Key \([^)]*\)=)\(.*?\)(?= |\n|\Z)", rf"\1({REDACTED})"),
    )
)
_CLIENT_SECRET_LENGTH = 43
_CLIENT_SECRET = re.compile(
    r"(?<![\w-])(?=[\w-]{43}(?![\w-]))(?=[\w-]*[A-Z])(?=[\w-]*[a-z])(?=[\w-]*[0-9])[\w-]{43}", re.ASCII
)
"""The form of secrets.token_urlsafe(32); other text rarely has this length and three kinds of characters."""
_UUID = re.compile(UUID_PATTERN)
"""Most values besides the message of a log line are UUIDs, which are never secrets or card numbers."""


def redact(text: str) -> str:
    """Return `text` with a placeholder for each secret, access token and card number."""
    if _UUID.fullmatch(text):
        return text
    if _HINT.search(text.lower()):
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
    if len(text) >= _CLIENT_SECRET_LENGTH:
        text = _CLIENT_SECRET.sub(REDACTED, text)
    return mask_card_numbers(text)
