"""Reasons of failures as text."""

import pytest
from amqp.exceptions import MessageNacked, NotFound
from kombu.exceptions import OperationalError

from gateway.reasons import REASON_MAX_LENGTH, doing, reason_of

pytestmark = pytest.mark.unit


def caused_by(cause: Exception) -> OperationalError:
    """Return kombu's error for a broker error without a text."""
    error = OperationalError(str(cause))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (caused_by(MessageNacked()), "OperationalError: MessageNacked: Message was nacked by broker."),
        (MessageNacked(), "MessageNacked: Message was nacked by broker."),
        (NotFound("no queue 'x'", (50, 10), "Queue.declare", 404), "NotFound: Queue.declare: (404) no queue 'x'"),
        (TimeoutError(), "TimeoutError: Timeout expired."),
        (ValueError("two\n  lines"), "ValueError: two; lines"),
        (type("Bare", (Exception,), {"__doc__": None})(), "Bare"),
    ],
    ids=str,
)
def test_a_reason_is_never_empty(error: Exception, expected: str) -> None:
    assert reason_of(error) == expected


def test_a_reason_contains_the_operation_and_has_a_bounded_length() -> None:
    with pytest.raises(TimeoutError) as caught, doing("waiting for the confirm of a message"):
        raise TimeoutError
    assert reason_of(caught.value) == "TimeoutError: Timeout expired. (waiting for the confirm of a message)"
    assert len(reason_of(ValueError("x" * 10_000))) == REASON_MAX_LENGTH
