"""Takes secrets, tokens and card numbers out of text before it is logged.

Nothing of the gateway logs them on purpose. This is for what others put into their messages and exceptions: a URL with
its password, a header, a row that PostgreSQL refused.
"""

import re

from gateway.security.card_numbers import UUID_PATTERN, mask_card_numbers

REDACTED = "[redacted]"

_NAMES = "pass(?:word|wd)|secret|(?:api|private)[_-]?key|(?:access|refresh|id)[_-]token|authorization|cookie"
_VALUE = r"""b?"[^"]*"|b?'[^']*'|(?:(?:bearer|basic)\s+)?[^\s,;&'"})\]]+"""
_HINT = re.compile(
    r"eyj|whsec_|bearer|basic|://|-----begin|passw|secret|key|_token|-token|authorization|cookie|failing row"
)
"""What stands, in lower case, in every text that a rule with a name of something applies to: most lines have none."""
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
        # PostgreSQL's DETAIL of a row that it refused
        (r"(Failing row contains )\(.*?\)(?=\.|\n|\Z)", rf"\1({REDACTED})"),
        (r"(Key \([^)]*\)=)\(.*?\)(?= |\n|\Z)", rf"\1({REDACTED})"),
    )
)
_CLIENT_SECRET_LENGTH = 43
_CLIENT_SECRET = re.compile(
    r"(?<![\w-])(?=[\w-]{43}(?![\w-]))(?=[\w-]*[A-Z])(?=[\w-]*[a-z])(?=[\w-]*[0-9])[\w-]{43}", re.ASCII
)
"""secrets.token_urlsafe(32): nothing else has this length and three kinds of characters."""
_UUID = re.compile(UUID_PATTERN)
"""What most values beside a log line's message are; it is neither a secret nor a card number."""


def redact(text: str) -> str:
    """`text` without secrets, access tokens and card numbers; what stands in their place says so."""
    if _UUID.fullmatch(text):
        return text
    if _HINT.search(text.lower()):
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
    if len(text) >= _CLIENT_SECRET_LENGTH:
        text = _CLIENT_SECRET.sub(REDACTED, text)
    return mask_card_numbers(text)
