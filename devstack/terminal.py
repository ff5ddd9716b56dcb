"""Messages in the terminal. Only the standard library, because the bootstrap uses this module."""

import contextlib
import sys
import time

_started = time.monotonic()
_BLUE, _RED, _PLAIN = "\033[36m", "\033[31m", "\033[0m"


class DevstackError(Exception):
    """An error that the user can correct; its text is the complete message."""


def print_line(text: str, colour: str = "") -> None:
    """Print a line; ignore a closed terminal, so that the stack can still stop in order."""
    with contextlib.suppress(OSError, ValueError):
        if colour and sys.stdout.isatty():
            text = f"{colour}{text}{_PLAIN}"
        print(text, flush=True)


def info(text: str) -> None:
    """Print a message with the seconds since the start."""
    print_line(f"[{time.monotonic() - _started:5.1f}s] {text}", _BLUE)


def print_error(text: str) -> None:
    """Print an error on standard error."""
    with contextlib.suppress(OSError, ValueError):
        colours = (_RED, _PLAIN) if sys.stderr.isatty() else ("", "")
        print(f"{colours[0]}error: {text}{colours[1]}", file=sys.stderr, flush=True)
