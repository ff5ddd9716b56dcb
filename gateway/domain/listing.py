"""Filters of lists, shared by everything that can be listed."""

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import ColumnElement

Criterion = tuple[InstrumentedAttribute[Any], Callable[[Any, Any], Any], object]
"""A column, a comparison of the `operator` module, and the value wanted; None does not filter."""


def conditions(*criteria: Criterion) -> list[ColumnElement[bool]]:
    """The criteria that have a value, as SQL."""
    return [compare(column, value) for column, compare, value in criteria if value is not None]
