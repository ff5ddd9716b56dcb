"""Why a transaction or a refund failed."""

from typing import Any

from sqlalchemy import Row


def failure_of(row: Row[*tuple[Any, ...]]) -> dict[str, Any] | None:
    """The failure that `row`, of either, holds, as api.md shows it; None when it has not failed."""
    return row.failure_category and {
        "code": row.failure_code,
        "message": row.failure_message,
        "category": row.failure_category,
        "retryable": row.failure_retryable,
    }
