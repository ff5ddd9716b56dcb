"""Email addresses of users."""

import re

EMAIL_MAX_LENGTH = 254

# HTML's definition of an email address, with a domain of at least two labels and the lengths of RFC 5321
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_EMAIL = re.compile(rf"[a-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@(?:{_LABEL}\.)+{_LABEL}")


def normalize_email(email: str) -> str:
    """Return `email` in lower case.

    Raises:
        ValueError: it is not an email address; the text is for its user.
    """
    lowered = email.lower()
    if not (email.isascii() and _EMAIL.fullmatch(lowered)):  # the Kelvin sign's lower case is an ASCII letter
        raise ValueError("This should be an email address such as ada@example.com.")
    return lowered
