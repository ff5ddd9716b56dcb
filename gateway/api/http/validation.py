"""Turns the text of a request into validated models, or into errors that say what is wrong and where.

Every string of a request passes the same guards before anything else looks at it: a card number is refused, and so is
text that PostgreSQL cannot store. Errors name the place and the rule, never the value.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from gateway.api.http import bounded_json, field_codes
from gateway.errors import (
    CardNumberRejected,
    FieldError,
    MalformedJson,
    UnknownField,
    UnknownPaymentMethod,
    ValidationFailed,
)
from gateway.security.card_numbers import contains_card_number, has_enough_digits

ERRORS_MAX = 100
"""Errors listed in one answer."""
PARAMETERS_MAX = 50
"""Maximum number of parameters in one query string or form: more than any endpoint has."""

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


class RequestModel(BaseModel):
    """The base of every request body: exact JSON types, and no field that the contract does not name."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class QueryModel(BaseModel):
    """The base of every query string: values are read from text, and no parameter that the contract does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoBody(RequestModel):
    """The body of a POST that takes none: nothing, or an object without fields."""


class NoQuery(QueryModel):
    """The query string of a call that takes none."""


_SPECIFIC = {kind.code: kind for kind in (UnknownField, UnknownPaymentMethod)}
"""Problems that have a code of their own when nothing else is wrong with the request."""

_CODES = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "string_too_short": "invalid_length",
    "string_too_long": "invalid_length",
    "too_short": "invalid_length",
    "too_long": "invalid_length",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "literal_error": "invalid_choice",
    "enum": "invalid_choice",
    "string_pattern_mismatch": "invalid_format",
    "int_from_float": "invalid_type",
}
_DETAILS = {"required": "This is required.", "unknown_field": "This is not known here."}
_KEY_MARK = "[key]"
"""What pydantic appends to the place of a key, as opposed to its value."""


def pointer_to(place: Iterable[str | int]) -> str:
    """The JSON pointer (RFC 6901) to a place inside a document.

    >>> pointer_to(("metadata", "a/b"))
    '/metadata/a~1b'
    """
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in place)


def parse_json(model: type[Model], body: bytes) -> Model:
    """The validated body of a request.

    Raises:
        MalformedJson: it is not one JSON text in UTF-8, or it is ambiguous (duplicate names).
        CardNumberRejected: a string in it contains a card number.
        ValidationFailed: it does not match the model, or it exceeds the limits of any body.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise MalformedJson from None
    parsed = bounded_json.decode(text)
    if "\\" in text or has_enough_digits(text):  # without escapes, each string appears literally in the text
        _guard(parsed)
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        errors = _errors_of(exc)
        if errors[0]["type"] == "json_invalid":
            raise MalformedJson("The body contains a number that is too long.") from None
        refuse([_field_error(error) for error in errors])


def parse_parameters(model: type[Model], parameters: Iterable[tuple[str, str]]) -> Model:
    """The validated parameters of a query string.

    Raises:
        CardNumberRejected: a value holds a card number.
        ValidationFailed: they are not what the model describes, or one is given twice.
    """
    values = guarded_parameters(parameters)
    try:
        return model.model_validate_strings(values)
    except ValidationError as exc:
        refuse([_field_error(error) for error in _errors_of(exc)])


def guarded_parameters(parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Parameters of a query string or a form, each given once and without anything that may not be stored.

    Raises:
        CardNumberRejected: a value holds a card number.
        ValidationFailed: one is given twice, or holds what cannot be stored.
    """
    values: dict[str, str] = {}
    for name, value in parameters:
        _guard({name: value})
        if name in values:
            refuse([FieldError(pointer=pointer_to((name,)), code="duplicate", detail="This is given more than once.")])
        values[name] = value
    return values


def refuse(errors: list[FieldError]) -> NoReturn:
    """Raise the problem that lists `errors`; it has a code of its own when they all say the same."""
    codes = {error["code"] for error in errors}
    kind = _SPECIFIC.get(codes.pop(), ValidationFailed) if len(codes) == 1 else ValidationFailed
    first = errors[0]
    detail = f"{first['pointer']}: {first['detail']}".lstrip(": ")
    raise kind(
        detail if len(errors) == 1 else f"{len(errors)} things are not valid; see errors.", errors=errors[:ERRORS_MAX]
    )


def refuse_card_number(text: str, place: Place, *, issued_only: bool = False) -> None:
    """Refuse a request whose string at `place` holds a card number; see `contains_card_number` for `issued_only`.

    Raises:
        CardNumberRejected: it does.
    """
    if contains_card_number(text, issued_only=issued_only):
        error = FieldError(pointer=pointer_to(place), code=CardNumberRejected.code, detail=CardNumberRejected.title())
        raise CardNumberRejected(errors=[error])


def refuse_many_parameters(parameters: bytes) -> None:
    """Reject a query string or a form of more than `PARAMETERS_MAX` parameters, before it is parsed.

    Raises:
        ValidationFailed: it has more.
    """
    if parameters.count(b"&") >= PARAMETERS_MAX:
        detail = f"There may be {PARAMETERS_MAX} parameters at most."
        refuse([FieldError(pointer="", code="invalid_length", detail=detail)])


def _guard(parsed: Any) -> None:
    """Reject a document with a string that contains a card number or cannot be stored; compute positions only then."""
    for text in _texts(parsed):
        if contains_card_number(text) or not _is_storable(text):
            break
    else:
        return
    unstorable: list[Place] = []
    for place, text in _placed_texts(parsed):  # names come before their values: no pointer repeats a card number
        refuse_card_number(text, place)
        if not _is_storable(text) and len(unstorable) < ERRORS_MAX:
            unstorable.append(place)
    detail = "NUL characters and lone surrogates are not allowed."
    refuse([FieldError(pointer=pointer_to(place), code="invalid_characters", detail=detail) for place in unstorable])


def _texts(parsed: Any) -> Iterator[str]:
    """Yield every string of a parsed document, including names."""
    waiting = [parsed]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _placed_texts(parsed: Any) -> Iterator[tuple[Place, str]]:
    """Every string of a parsed document with its place, names first."""
    waiting: list[tuple[Place, Any]] = [((), parsed)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, dict):
            for name in value:
                yield place, name
            waiting.extend(((*place, name), item) for name, item in value.items())
        elif isinstance(value, list):
            waiting.extend(((*place, index), item) for index, item in enumerate(value))


def _is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store `text`."""
    return "\x00" not in text and _is_unicode(text)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _errors_of(exc: ValidationError) -> list[ErrorDetails]:
    """Return the errors that a response lists, without unused details."""
    return exc.errors(include_url=False, include_context=False, include_input=False)[:ERRORS_MAX]


def _code_of(kind: str) -> str:
    if kind in _CODES:
        return _CODES[kind]
    if kind.startswith(("datetime", "timezone")):
        return "invalid_time"
    if kind.endswith(("_type", "_parsing", "_parsing_size")):
        return "invalid_type"
    return kind if kind in field_codes.REMEDIES else field_codes.NOT_VALID


def _field_error(error: ErrorDetails) -> FieldError:
    code = _code_of(error["type"])
    place = error["loc"][:-1] if error["loc"] and error["loc"][-1] == _KEY_MARK else error["loc"]
    return FieldError(pointer=pointer_to(place), code=code, detail=_DETAILS.get(code, error["msg"]))
