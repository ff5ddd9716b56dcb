"""The reasons why transactions and refunds failed or are dead-lettered, as merchants see them."""

from typing import Any

from sqlalchemy import Row

from gateway.outcomes import ADAPTER_ERROR

PROVIDER_ERROR = "provider_error"
EXPIRED = "expired"
_INTERNAL = ("processing_error", "It could not be processed; an operator looks into it.")


def failure_of(row: Row[*tuple[Any, ...]]) -> dict[str, Any] | None:
    """Return the representation of the failure in a row of a transaction or refund; None if it has not failed."""
    return row.failure_category and {
        "code": row.failure_code,
        "message": row.failure_message,
        "category": row.failure_category,
        "retryable": row.failure_retryable,
    }


def failure_of_dead_letter(code: str | None, message: str | None, reason: str) -> tuple[str, str, str]:
    """Return code, message and category of a dead-lettered object, for the merchant.

    `code` and `message` are those of its last attempt that has any; `reason` is why its message was dead-lettered.
    Internal errors are shown to operators only.
    """
    if code is None and reason == EXPIRED:
        return EXPIRED, "It waited too long to be processed; an operator looks into it.", EXPIRED
    if code is None or message is None or code == ADAPTER_ERROR:
        return (*_INTERNAL, PROVIDER_ERROR)
    return code, message, PROVIDER_ERROR
