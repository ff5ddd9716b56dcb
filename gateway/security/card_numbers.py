"""Find card numbers in text, so that none is stored or logged (PCI DSS 3.5).

A card number has 13 to 19 digits that pass the Luhn check, in any script and with any separators. Ids and dates also
consist of digits: UUIDs, hexadecimal ids and calendar dates are skipped. In a longer row of digit groups, only a whole
group, or a part that a card scheme could have issued, counts.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, chain, islice

MIN_DIGITS = 13
MAX_DIGITS = 19
MASK = "[card number]"

UUID_PATTERN = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NOT_CARDS = re.compile(
    rf"(?<![0-9a-f]){UUID_PATTERN}(?![0-9a-f])"
    r"""
    | (?<![0-9a-z])(?:
        (?=[0-9]*[a-f])(?![a-f]*[0-9]{13,19}[a-f]*(?![0-9a-f]))[0-9a-f]{16,}    # a UUID without hyphens, a digest, ...
        | (?:19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]                                # 2026-01-31
        | [0-3][0-9]\.[01][0-9]\.(?:19|20)[0-9]{2}                              # 31.01.2026
    )(?![0-9a-z])""",
    re.VERBOSE | re.IGNORECASE,
)
_DIGITS = re.compile("[0-9]+")
_DIGIT_GROUPS = re.compile(r"[0-9]+(?:[\s\-._]+[0-9]+)*")
_ENOUGH_DIGITS = re.compile(rf"(?<![0-9])[0-9](?:[\s\-._]*+[0-9]){{{MIN_DIGITS - 1}}}")
_ISSUED_LENGTHS = {
    "4": (13, 16, 19),
    "5": (16,),
    "6": (13, 14, 15, 16, 17, 18, 19),
    "2": (16,),
    "34": (15,),
    "35": (16,),
    "37": (15,),
    "30": (14, 16),
    "36": (14, 16, 19),
    "38": (14, 16, 19),
    "39": (14, 16, 19),
}
"""Lengths of the card numbers that card schemes issue, by the first one or two digits."""
_CANDIDATES_MAX = 1_000
"""Maximum candidates that are checked in one text, to bound the time."""

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""The digit sum of twice each digit."""

_SEPARATING = frozenset({"Zs", "Zl", "Zp", "Pd", "Pc", "Cf", "Mn", "Me", "Sk"})
"""Unicode's general categories of spaces, dashes, and marks that are invisible alone."""
_DOTS = frozenset("\u00b7\u2022\u2024\u2027\u2212\u2219\u22c5\u30fb\u3002\uff0e\uff61")


def passes_luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B).

    >>> passes_luhn("4242424242424242"), passes_luhn("4242424242424241")
    (True, False)
    """
    backwards = [int(digit) for digit in reversed(digits)]
    return (sum(backwards[::2]) + sum(_DOUBLED[digit] for digit in backwards[1::2])) % 10 == 0


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    """Return the ASCII digit or separator that `character` looks like."""
    if character.isascii():
        return character
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    return "-" if character in _DOTS or unicodedata.category(character) in _SEPARATING else character


def _plain(text: str) -> str:
    """Return `text` with the digits and separators of all scripts in ASCII, character by character."""
    return text if text.isascii() else "".join(map(_plain_character, text))


def _candidates(groups: list[str], *, issued_only: bool) -> Iterator[str]:
    digits = "".join(groups)
    if len(digits) < MIN_DIGITS:
        return
    if not issued_only:
        yield from (number for number in chain((digits,), groups) if MIN_DIGITS <= len(number) <= MAX_DIGITS)
    is_end = bytearray(len(digits) + MAX_DIGITS + 1)  # one byte per digit: a row may have tens of thousands of groups
    for end in accumulate(map(len, groups)):
        is_end[end] = True
    for start in accumulate(map(len, groups), initial=0):
        lengths = _ISSUED_LENGTHS.get(digits[start : start + 1]) or _ISSUED_LENGTHS.get(digits[start : start + 2], ())
        for length in lengths:
            if is_end[start + length]:
                yield digits[start : start + length]


def has_enough_digits(text: str) -> bool:
    """Return whether `text` has enough digits for a card number. It is a fast check: most texts have not."""
    return _ENOUGH_DIGITS.search(_plain(text)) is not None


def _rows(plain: str) -> Iterator[re.Match[str]]:
    """Find the rows of digit groups that could contain a card number."""
    if _ENOUGH_DIGITS.search(plain):
        yield from _DIGIT_GROUPS.finditer(_NOT_CARDS.sub(lambda found: "#" * len(found.group()), plain))


def contains_card_number(text: str, *, issued_only: bool = False) -> bool:
    """Return whether `text` contains a card number; with `issued_only`, one that a card scheme could have issued.

    Use `issued_only` for ids that programs generate: one in ten timestamps passes the Luhn check.
    """
    if len(text) < MIN_DIGITS:
        return False
    candidates = (
        candidate
        for row in _rows(_plain(text))
        for candidate in _candidates(_DIGITS.findall(row.group()), issued_only=issued_only)
    )
    return any(map(passes_luhn, islice(candidates, _CANDIDATES_MAX)))


def mask_card_numbers(text: str) -> str:
    """Replace each row of digits that contains a number that a card scheme could have issued by `MASK`."""
    if len(text) < MIN_DIGITS:
        return text
    pieces, position = [], 0
    for row in _rows(_plain(text)):
        if contains_card_number(row.group(), issued_only=True):
            pieces += [text[position : row.start()], MASK]
            position = row.end()
    return "".join((*pieces, text[position:]))
