"""What the stack says in the terminal, and how it fails. Standard library only: the bootstrap needs it."""

import contextlib
import sys
import time

_started = time.monotonic()
_BLUE, _RED, _PLAIN = "\033[36m", "\033[31m", "\033[0m"


class DevstackError(Exception):
    """Something the person at the terminal has to know or change; its text is the whole message."""


def print_line(text: str, colour: str = "") -> None:
    """Print one line. A terminal that went away must not keep the stack from stopping in order."""
    with contextlib.suppress(OSError, ValueError):
        if colour and sys.stdout.isatty():
            text = f"{colour}{text}{_PLAIN}"
        print(text, flush=True)


def info(text: str) -> None:
    """Print a line of the stack's own, with the seconds since the start."""
    print_line(f"[{time.monotonic() - _started:5.1f}s] {text}", _BLUE)


def print_error(text: str) -> None:
    """Print an error on standard error."""
    with contextlib.suppress(OSError, ValueError):
        colours = (_RED, _PLAIN) if sys.stderr.isatty() else ("", "")
        print(f"{colours[0]}error: {text}{colours[1]}", file=sys.stderr, flush=True)
