"""Base classes and field types of response models.

Response models document the responses in /openapi.json. Responses are built by the domain, not from these models; the
tests validate responses against them.
"""

from functools import cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, create_model

TIMESTAMP_PATTERN = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$"


class ResponseModel(BaseModel):
    """The base class of response bodies."""

    model_config = ConfigDict(strict=True, extra="forbid")


@cache
def page_of(item: type[ResponseModel]) -> type[ResponseModel]:
    """Return the model of a page of a list of these objects; that of `Transaction` is named `TransactionPage`."""
    data = Annotated[list[item], Field(description="The objects of this page, newest first")]  # type: ignore[valid-type]
    return create_model(
        f"{item.__name__}Page",
        __base__=ResponseModel,
        __doc__="One page of a list, newest object first.",
        data=(data, ...),
        next_cursor=(str | None, ...),
    )


Timestamp = Annotated[
    str,
    Field(
        pattern=TIMESTAMP_PATTERN,
        examples=["2026-01-31T12:00:00.000000Z"],
        json_schema_extra={"format": "date-time"},
    ),
]
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
