"""Wait for a condition; find an unused port."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.05


def free_port() -> int:
    """Return a port of the loopback address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def eventually(probe: Callable[[], T], *, within: float = 15.0, what: str = "the condition") -> T:
    """Call `probe` until its result is true, for at most `within` seconds; return the result.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + within
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {within} s; last result: {result!r}")
        time.sleep(POLL_SECONDS)
