"""Decode JSON after checking the bounds of its depth and of its number of values.

Both are computed from the text: each value except the first of its object or array follows a comma, and each object or
array begins with a bracket. Both are counted outside of strings, so 64 KiB of text never become more than `VALUES_MAX`
objects in memory.
"""

import json
import re
from typing import Any, NoReturn

from gateway.errors import FieldError, MalformedJson, ValidationFailed

DEPTH_MAX = 10
"""Maximum nesting of objects and arrays, including the outermost."""
VALUES_MAX = 1_000
"""Maximum number of values in one document, including nested values."""
MEMBERS_MAX = 100
"""Maximum number of members of one object: twice as many as any object of the API may have, since each extra member is
an error in the response."""

# A string ends at its closing quote or at the end of the text. All quantifiers are possessive ("*+"), so the search
# does not backtrack and reads each character once.
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]|,', re.DOTALL)


class _DuplicateName(ValueError):
    """An object has a duplicate name, so its meaning depends on the parser."""


def decode(text: str) -> Any:
    """Return the decoded JSON `text`; numbers are floats, because their values are not used here.

    Raises:
        MalformedJson: it is not one JSON text, is ambiguous (duplicate names), or is nested too deeply.
        ValidationFailed: it has too many values, or an object in it has too many members.
    """
    openings = text.count("{") + text.count("[")
    if openings > DEPTH_MAX or openings + text.count(",") >= VALUES_MAX:  # an upper bound, strings included
        _check_bounds(text)
    try:
        return _DECODER.decode(text)
    except _DuplicateName:
        raise MalformedJson("An object in the body has the same name twice.") from None
    except ValueError:
        raise MalformedJson from None


def _check_bounds(text: str) -> None:
    depth, values = 0, 1
    for token in _TOKENS.finditer(text):
        kind = text[token.start()]
        if kind == '"':
            continue
        if kind in "]}":
            depth -= 1
            if depth < 0:  # invalid JSON: the decoder raises the error
                return
            continue
        values += 1
        if values > VALUES_MAX:
            _reject(f"The body may have at most {VALUES_MAX} values.")
        if kind != ",":
            depth += 1
            if depth > DEPTH_MAX:
                raise MalformedJson(f"The body is nested too deeply: more than {DEPTH_MAX} levels.")


def _reject(detail: str) -> NoReturn:
    raise ValidationFailed(detail, errors=[FieldError(pointer="", code="invalid_length", detail=detail)])


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MEMBERS_MAX:
        _reject(f"An object in the body may have at most {MEMBERS_MAX} members.")
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateName
    return members


def _reject_constant(_constant: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_constant=_reject_constant, parse_int=float, parse_float=float
)
