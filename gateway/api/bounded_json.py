"""Decodes JSON whose depth and number of values were bounded before anything was built from it.

The bounds are read off the text: each value but the first of its object or array follows a comma, and each object or
array begins with a bracket. Both are counted outside of strings, so that 64 KiB of text can never become more than
`VALUES_MAX` objects in memory.
"""

import json
import re
from typing import Any, NoReturn

from gateway.errors import FieldError, MalformedJson, ValidationFailed

DEPTH_MAX = 10
"""Objects and arrays inside each other, the outermost included."""
VALUES_MAX = 1_000
"""Values in one document, those inside of others included."""
MEMBERS_MAX = 100
"""Members of one object. Twice as many as any object of the contract may have: so many errors are listed."""

# A string ends at its closing quote or at the end of the text. No quantifier gives anything back (the "*+" of Python's
# re), so that the search looks at each character once.
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]|,', re.DOTALL)


class _DuplicateName(ValueError):
    """An object has the same name twice, so that its meaning depends on the parser."""


def decode(text: str) -> Any:
    """What the JSON `text` says; numbers are floats, because nothing looks at them here.

    Raises:
        MalformedJson: it is not one JSON text, not one that all parsers read the same, or nested too deeply.
        ValidationFailed: it has too many values, or an object in it has too many members.
    """
    openings = text.count("{") + text.count("[")
    if openings > DEPTH_MAX or openings + text.count(",") >= VALUES_MAX:  # else it is within bounds, strings or not
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
            if depth < 0:  # no JSON: the decoder says so
                return
            continue
        values += 1
        if values > VALUES_MAX:
            _refuse(f"The body may have {VALUES_MAX} values at most.")
        if kind != ",":
            depth += 1
            if depth > DEPTH_MAX:
                raise MalformedJson(f"The body is nested too deeply: more than {DEPTH_MAX} levels.")


def _refuse(detail: str) -> NoReturn:
    raise ValidationFailed(detail, errors=[FieldError(pointer="", code="invalid_length", detail=detail)])


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MEMBERS_MAX:
        _refuse(f"An object in the body may have {MEMBERS_MAX} members at most.")
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateName
    return members


def _refuse_constant(_constant: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_constant=_refuse_constant, parse_int=float, parse_float=float
)
