"""What tests of several rings use."""

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
    """The first truthy answer of `probe`, asked again and again for `within` seconds.

    Raises:
        AssertionError: it never came.
    """
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {within} s; last answer: {answer!r}")
        time.sleep(POLL_SECONDS)
