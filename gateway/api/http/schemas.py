"""What the models of answers share. They describe answers in /openapi.json; the tests hold the answers against them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

TIME_PATTERN = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$"


class ResponseModel(BaseModel):
    """The base of everything that is answered."""

    model_config = ConfigDict(strict=True, extra="forbid")


Timestamp = Annotated[
    str,
    Field(
        pattern=TIME_PATTERN,
        description="RFC 3339 in UTC",
        examples=["2026-01-31T12:00:00.000000Z"],
        json_schema_extra={"format": "date-time"},
    ),
]
Id = Annotated[str, Field(description="UUIDv7", json_schema_extra={"format": "uuid"})]
