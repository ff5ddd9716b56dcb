"""Field types that several query strings and request bodies share."""

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.ids import parse_id
from gateway.money import is_payable

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_LOST_PLUS = re.compile(r" (?=\d{2}:\d{2}\Z)", re.ASCII)
YEAR_MIN = 2
"""In an earlier year, converting the time to UTC could exceed the range of `datetime`."""


def _payable(code: str) -> str:
    currency = code.upper()
    if not is_payable(currency):
        raise PydanticCustomError(
            "unsupported_currency", "This must be an ISO 4217 currency in which payments are made, such as USD."
        )
    return currency


def _rfc3339(text: Any) -> Any:
    # an unencoded plus in a query string is decoded as a space
    restored = _LOST_PLUS.sub("+", text) if isinstance(text, str) else ""
    if not _RFC3339.fullmatch(restored) or not YEAR_MIN <= int(restored[:4]) < 9999:
        raise PydanticCustomError("invalid_time", "This must be a time such as 2026-01-31T12:00:00Z.")
    return restored


def _canonical_id(text: Any) -> UUID:
    parsed = parse_id(text) if isinstance(text, str) else None
    if parsed is None:
        raise PydanticCustomError("invalid_id", "This must be an id: a UUID in lower case with hyphens.")
    return parsed


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("invalid_length", "This must not be blank.")
    return text


NotBlank = AfterValidator(_not_blank)
"""Rejects text that consists of white space."""
CurrencyCode = Annotated[
    str,
    Field(pattern="^[A-Za-z]{3}$", description="ISO 4217 alphabetic code, in any case", examples=["USD"]),
    AfterValidator(_payable),
]
TimestampParameter = Annotated[
    datetime,
    AwareDatetime,
    BeforeValidator(_rfc3339),
    Field(strict=False, examples=["2026-01-31T12:00:00Z"]),
]
IdParameter = Annotated[UUID, BeforeValidator(_canonical_id), WithJsonSchema({"type": "string", "format": "uuid"})]
