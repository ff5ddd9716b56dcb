"""Why something failed, in words for a log line, an alert or a stored error: never empty."""

from collections.abc import Iterator
from contextlib import contextmanager

REASON_MAX_LENGTH = 500


def reason_of(error: BaseException) -> str:
    """Return the class of `error` and its text in one line; without a text, that of its cause or its class.

    The notes that were added to it follow: what was being done, or what was waited for. Of an error of the database it
    is what PostgreSQL or the driver says, with neither the statement nor values of a row.
    """
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{_words_of(getattr(error, 'orig', None) or error)}{notes}"[:REASON_MAX_LENGTH]


def _words_of(error: BaseException) -> str:
    primary = getattr(getattr(error, "diag", None), "message_primary", None)  # psycopg's; other parts hold values
    lines = (" ".join(line.split()) for line in str(primary or error).splitlines())  # libpq has one for each host
    name, text = type(error).__name__, "; ".join(line for line in lines if line)
    if text:
        return f"{name}: {text}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        return f"{name}: {_words_of(cause)}"
    described = " ".join((type(error).__doc__ or "").partition("\n\n")[0].split())
    return f"{name}: {described}" if described else name


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Add `what` was being done to the reason of each error that the block raises."""
    try:
        yield
    except Exception as exc:
        exc.add_note(what)
        raise
