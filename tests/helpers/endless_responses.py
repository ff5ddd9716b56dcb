"""Functions that send endless responses, each costly to read in a different way.

Each gets a connection whose request was read, and sends until the peer disconnects.
"""

import itertools
import socket
import time
from collections.abc import Callable, Iterable

BLOCK_BYTES = 65_536
BETWEEN_PIECES_SECONDS = 0.001
"""Long enough for the peer to receive each piece separately."""

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _send_all(connection: socket.socket, head: bytes, blocks: Iterable[bytes]) -> None:
    connection.sendall(head)
    for block in blocks:
        connection.sendall(block * (BLOCK_BYTES // len(block) or 1))


def _endless(head: bytes, block: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: _send_all(connection, head, itertools.repeat(block))


def byte_by_byte(connection: socket.socket) -> None:
    """Send a header that never ends in pieces of one byte."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for byte in itertools.cycle(b"a: b\r\n"):
        connection.sendall(bytes([byte]))
        time.sleep(BETWEEN_PIECES_SECONDS)  # the response is slow on purpose


ENDLESS_BEFORE_STATUS = {
    "100 Continue": _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "shortest 100": _endless(b"", b"HTTP/1.1 100 \r\n\r\n"),
    "103 Early Hints": _endless(b"", b"HTTP/1.1 103 Early Hints\r\n" + b"a:b\r\n" * 100 + b"\r\n"),
    "long headers": _endless(b"", b"HTTP/1.1 103 E\r\n" + (b"a: " + b"x" * 8_000 + b"\r\n") * 8 + b"\r\n"),
    "byte by byte": byte_by_byte,
}
"""They never send a final status."""

ENDLESS_AFTER_STATUS = {
    "chunks": _endless(CHUNKED, b"1\r\na\r\n"),
    "chunk extensions": _endless(CHUNKED, b"1" + b";a=b" * 1_000 + b"\r\na\r\n"),
    "unsolicited answers": _endless(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 100 \r\n\r\n"),
}
"""They first send status 200."""

ENDLESS_REFUSED = {
    "headers": _endless(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
    "trailers": _endless(CHUNKED + b"0\r\n", b"a: b\r\n"),
    "one header": _endless(b"HTTP/1.1 200 OK\r\na: ", b"x"),
}
"""aiohttp itself rejects them."""
