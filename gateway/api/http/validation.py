"""Validate the text of a request: return a model, or raise the errors with their places.

Before anything else, every string of a request is checked: a card number is rejected, and so is text that PostgreSQL
cannot store. Errors name the place and the rule, never the value.
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
"""Maximum number of errors in one response."""
PARAMETERS_MAX = 50
"""Maximum number of parameters in one query string or form: more than any endpoint has."""

Place = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound=BaseModel)


class RequestModel(BaseModel):
    """The base class of request bodies: exact JSON types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class QueryModel(BaseModel):
    """The base class of query strings: values are parsed from text, no unknown parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoBody(RequestModel):
    """The body of a POST without a body: nothing, or an object without fields."""


class NoQuery(QueryModel):
    """The query string of an endpoint without parameters."""


_SPECIFIC = {kind.code: kind for kind in (UnknownField, UnknownPaymentMethod)}
"""Errors whose code becomes the code of the problem if a request has no other errors."""

PYDANTIC_CODES = {
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
"""The code of an error in a response by the type of the pydantic error."""
_DETAILS = {"required": "This field is required.", "unknown_field": "This endpoint has no such field or parameter."}
_KEY_MARK = "[key]"
"""pydantic appends this to the location of an error in a key, as opposed to its value."""


def pointer_to(place: Iterable[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) to a place inside a document.

    >>> pointer_to(("metadata", "a/b"))
    '/metadata/a~1b'
    """
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in place)


def parse_json(model: type[ModelT], body: bytes) -> ModelT:
    """Return the validated body of a request.

    Raises:
        MalformedJson: it is not a single JSON text in UTF-8, or it is ambiguous (duplicate names).
        CardNumberRejected: a string in it contains a card number.
        ValidationFailed: it does not match the model, or it exceeds the limits of any body.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise MalformedJson from None
    parsed = bounded_json.decode(text)
    if "\\" in text or has_enough_digits(text):  # without escapes, each string appears literally in the text
        _check_strings(parsed)
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        errors = _errors_of(exc)
        if errors[0]["type"] == "json_invalid":
            raise MalformedJson("The body contains a number that is too long.") from None
        reject([_field_error(error) for error in errors])


def parse_parameters(model: type[ModelT], parameters: Iterable[tuple[str, str]]) -> ModelT:
    """Return the validated parameters of a query string.

    Raises:
        CardNumberRejected: a value contains a card number.
        ValidationFailed: they do not match the model, or a parameter is repeated.
    """
    values = guarded_parameters(parameters)
    try:
        return model.model_validate_strings(values)
    except ValidationError as exc:
        reject([_field_error(error) for error in _errors_of(exc)])


def guarded_parameters(parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the parameters of a query string or a form, none of them repeated, all of them storable.

    Raises:
        CardNumberRejected: a value contains a card number.
        ValidationFailed: a parameter is repeated, or PostgreSQL cannot store it.
    """
    values: dict[str, str] = {}
    for name, value in parameters:
        _check_strings({name: value})
        if name in values:
            reject([FieldError(pointer=pointer_to((name,)), code="duplicate", detail="This parameter is repeated.")])
        values[name] = value
    return values


def reject(errors: list[FieldError]) -> NoReturn:
    """Raise the problem that lists `errors`; if they all have one code, the problem may have it too (`_SPECIFIC`)."""
    codes = {error["code"] for error in errors}
    kind = _SPECIFIC.get(codes.pop(), ValidationFailed) if len(codes) == 1 else ValidationFailed
    first = errors[0]
    detail = f"{first['pointer']}: {first['detail']}".lstrip(": ")
    raise kind(
        detail if len(errors) == 1 else f"The request has {len(errors)} errors; see `errors`.",
        errors=errors[:ERRORS_MAX],
    )


def reject_card_number(text: str, place: Place, *, issued_only: bool = False) -> None:
    """Reject a request whose string at `place` contains a card number; see `contains_card_number` for `issued_only`.

    Raises:
        CardNumberRejected: the string contains one.
    """
    if contains_card_number(text, issued_only=issued_only):
        error = FieldError(pointer=pointer_to(place), code=CardNumberRejected.code, detail=CardNumberRejected.title())
        raise CardNumberRejected(errors=[error])


def reject_too_many_parameters(parameters: bytes) -> None:
    """Reject a query string or a form of more than `PARAMETERS_MAX` parameters, before it is parsed.

    Raises:
        ValidationFailed: there are more.
    """
    if parameters.count(b"&") >= PARAMETERS_MAX:
        detail = f"There may be at most {PARAMETERS_MAX} parameters."
        reject([FieldError(pointer="", code="invalid_length", detail=detail)])


def _check_strings(parsed: Any) -> None:
    """Reject a document with a string that contains a card number or cannot be stored; compute positions only then."""
    for text in _texts(parsed):
        if contains_card_number(text) or not _is_storable(text):
            break
    else:
        return
    unstorable: list[Place] = []
    for place, text in _texts_with_places(parsed):  # names come before their values: no pointer repeats a card number
        reject_card_number(text, place)
        if not _is_storable(text) and len(unstorable) < ERRORS_MAX:
            unstorable.append(place)
    detail = "NUL characters and lone surrogates are not allowed."
    reject([FieldError(pointer=pointer_to(place), code="invalid_characters", detail=detail) for place in unstorable])


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


def _texts_with_places(parsed: Any) -> Iterator[tuple[Place, str]]:
    """Yield every string of a parsed document with its place, names first."""
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
    if kind in PYDANTIC_CODES:
        return PYDANTIC_CODES[kind]
    if kind.startswith(("datetime", "timezone")):
        return "invalid_time"
    if kind.endswith(("_type", "_parsing", "_parsing_size")):
        return "invalid_type"
    return kind if kind in field_codes.REMEDIES else field_codes.NOT_VALID


def _field_error(error: ErrorDetails) -> FieldError:
    code = _code_of(error["type"])
    place = error["loc"][:-1] if error["loc"] and error["loc"][-1] == _KEY_MARK else error["loc"]
    return FieldError(pointer=pointer_to(place), code=code, detail=_DETAILS.get(code, error["msg"]))
