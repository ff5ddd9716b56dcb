"""Describe the reason of a failure for a log line, an alert or a stored error; the text is never empty."""

from collections.abc import Iterator
from contextlib import contextmanager

REASON_MAX_LENGTH = 500


def reason_of(error: BaseException) -> str:
    """Return the class of `error` and its text in one line; without a text, the text of its cause or class.

    Notes of the exception follow: the operation in progress. For a database error it is the message of PostgreSQL or
    the driver, without the statement and without values of a row.
    """
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{_text_of(getattr(error, 'orig', None) or error)}{notes}"[:REASON_MAX_LENGTH]


def _text_of(error: BaseException) -> str:
    primary = getattr(getattr(error, "diag", None), "message_primary", None)  # of psycopg; other fields contain values
    lines = (" ".join(line.split()) for line in str(primary or error).splitlines())  # libpq has one message per host
    name, text = type(error).__name__, "; ".join(line for line in lines if line)
    if text:
        return f"{name}: {text}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        return f"{name}: {_text_of(cause)}"
    described = " ".join((type(error).__doc__ or "").partition("\n\n")[0].split())
    return f"{name}: {described}" if described else name


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Add the operation `what` as a note to each error that the block raises."""
    try:
        yield
    except Exception as exc:
        exc.add_note(what)
        raise
