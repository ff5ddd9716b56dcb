"""Paginate lists: newest object first, by key (docs/api.md). There is no OFFSET, whose cost grows with its value."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gateway import db
from gateway.api.http.routes import ApiResponse
from gateway.api.http.validation import QueryModel
from gateway.domain.shared.listing import Listed
from gateway.errors import InvalidCursor

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
ID_BYTES = 16
CURSOR_MAX_LENGTH = 100
"""No cursor of the API is longer: a longer one is rejected without parsing."""
DECIMAL_MAX_DIGITS = 18
"""Fits into a PostgreSQL bigint."""


def _decimal(text: Any) -> Any:
    # pydantic also parses "1_000", " 7 " and "7.0"
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= DECIMAL_MAX_DIGITS):
        raise PydanticCustomError("invalid_type", "This must be a whole number in decimal digits.")
    return text


Decimal = Annotated[int, Field(ge=0, le=10**DECIMAL_MAX_DIGITS - 1), BeforeValidator(_decimal)]
"""A non-negative integer written in decimal digits."""
PageLimit = Annotated[
    int, Field(ge=1, le=LIMIT_MAX, description="Maximum number of objects per page"), BeforeValidator(_decimal)
]


class ListQuery(QueryModel):
    """The parameters of every list endpoint."""

    limit: PageLimit = LIMIT_DEFAULT
    cursor: Annotated[
        str | None,
        Field(
            description="`next_cursor` of the previous page. A page may have fewer than `limit` objects, or none, and "
            "still not be the last one: the list ends where `next_cursor` is null"
        ),
    ] = None

    def filters(self) -> dict[str, Any]:
        """Return the parameters of this list, without those of all lists."""
        return self.model_dump(exclude=set(ListQuery.model_fields))


def list_response(
    kind: str, query: ListQuery, list_newest: Callable[..., Sequence[dict[str, Any]]], *filters: Any
) -> ApiResponse:
    """Respond with one page of the objects of `kind`.

    `list_newest(connection, *filters, before=…, limit=…)` returns at most `limit` objects older than the object
    `before`, newest first.

    Raises:
        InvalidCursor: the cursor was not issued by a list of this kind.
    """
    before = None if query.cursor is None else _position_of(kind, query.cursor)
    with db.autocommit() as connection:
        found = list_newest(connection, *filters, before=before, limit=query.limit + 1)  # one more shows a next page
    shown = list(found[: query.limit])
    reached = found.reached if isinstance(found, Listed) else None
    last = UUID(shown[-1]["id"]) if len(found) > query.limit else reached
    return ApiResponse({"data": shown, "next_cursor": _cursor_of(kind, last) if last else None})


def _cursor_of(kind: str, position: UUID) -> str:
    return base64.urlsafe_b64encode(kind.encode() + b":" + position.bytes).rstrip(b"=").decode()


def _position_of(kind: str, cursor: str) -> UUID:
    if len(cursor) > CURSOR_MAX_LENGTH:
        raise InvalidCursor
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidCursor from None
    prefix, position = raw[:-ID_BYTES], raw[-ID_BYTES:]
    if prefix != kind.encode() + b":" or _cursor_of(kind, UUID(bytes=position)) != cursor:
        raise InvalidCursor
    return UUID(bytes=position)
