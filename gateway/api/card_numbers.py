"""Finds card numbers in text, so that no request that holds one is stored or logged (PCI DSS 3.5).

A card number is 13 to 19 digits that pass the Luhn check, whatever separates them. Ids and dates are digits too: UUIDs,
hexadecimal ids and calendar dates are passed over, and of a longer row of digit groups only a part that some card
scheme could have issued counts.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import accumulate, islice

MIN_DIGITS = 13
MAX_DIGITS = 19

_NOT_CARDS = re.compile(
    r"""(?<![0-9a-z])(?:
        [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}    # a UUID
        | (?=[0-9]*[a-f])[0-9a-f]{16,}                                  # a UUID without hyphens, a digest, a random id
        | (?:19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]                        # 2026-01-31
        | [0-3][0-9]\.[01][0-9]\.(?:19|20)[0-9]{2}                      # 31.01.2026
    )(?![0-9a-z])""",
    re.VERBOSE | re.IGNORECASE,
)
_SEPARATOR = r"[\s\-._\u2010-\u2015\u2212]{1,3}"
_DIGITS = re.compile("[0-9]+")
_DIGIT_GROUPS = re.compile(rf"[0-9]+(?:{_SEPARATOR}[0-9]+)*")
_ISSUED_LENGTHS = (
    ("4", (13, 16, 19)),
    ("5", (16,)),
    ("6", (13, 14, 15, 16, 17, 18, 19)),
    ("2", (16,)),
    ("34", (15,)),
    ("35", (16,)),
    ("37", (15,)),
    ("30", (14, 16)),
    ("36", (14, 16, 19)),
    ("38", (14, 16, 19)),
    ("39", (14, 16, 19)),
)
"""First digits and lengths of the numbers that card schemes issue."""
_CANDIDATES_MAX = 1_000
"""Candidates looked at in one text; more is nothing that a merchant writes, and only costs time."""

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""Twice each digit, with the digits of the product added up."""


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B).

    >>> passes_luhn("4242424242424242"), passes_luhn("4242424242424241")
    (True, False)
    """
    backwards = [int(digit) for digit in reversed(digits)]
    return (sum(backwards[::2]) + sum(_DOUBLED[digit] for digit in backwards[1::2])) % 10 == 0


def _candidates(groups: list[str], *, issued_only: bool) -> Iterator[str]:
    digits = "".join(groups)
    if len(digits) < MIN_DIGITS:
        return
    if len(digits) <= MAX_DIGITS and not issued_only:
        yield digits
    ends = list(accumulate(map(len, groups)))
    boundaries = set(ends)
    for start in (0, *ends):
        for prefix, lengths in _ISSUED_LENGTHS:
            if digits.startswith(prefix, start):
                yield from (digits[start : start + length] for length in lengths if start + length in boundaries)


def holds_card_number(text: str, *, issued_only: bool = False) -> bool:
    """Whether a card number stands somewhere in `text`; with `issued_only`, one that a card scheme could have issued.

    The latter is for ids that programs make: one in ten timestamps passes the Luhn check.
    """
    if len(text) < MIN_DIGITS:
        return False
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)  # digits of other scripts and widths
    if sum(map(text.count, "0123456789")) < MIN_DIGITS:
        return False
    rows = _DIGIT_GROUPS.finditer(_NOT_CARDS.sub("#", text))
    candidates = (
        candidate for row in rows for candidate in _candidates(_DIGITS.findall(row.group()), issued_only=issued_only)
    )
    return any(map(passes_luhn, islice(candidates, _CANDIDATES_MAX)))
