"""Open many unfinished connections of slow clients."""

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

CONNECT_SECONDS = 10

SILENT = b""
SLOW_HEAD = b"GET /health/live HTTP/1.1\r\nHos"
UNFINISHED_BODY = (
    b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _header(name: bytes, value: bytes) -> bytes:
    """Encode a literal header without indexing (RFC 7541, section 6.2.2)."""
    return bytes((0, len(name))) + name + bytes((len(value),)) + value


def http2_streams(count: int) -> bytes:
    """Return HTTP/2 frames without TLS: `count` POSTs that announce 1000 bytes and send one."""
    head = b"".join(
        _header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/auth/login"),
            (b":authority", b"x"),
            (b"content-type", b"application/json"),
            (b"content-length", b"1000"),
        )
    )
    settings, headers, data, end_headers = 4, 1, 0, 4
    frames = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", _frame(settings, 0, 0, b"")]
    for number in range(count):
        stream = 2 * number + 1
        frames += [_frame(headers, end_headers, stream, head), _frame(data, 0, stream, b"{")]
    return b"".join(frames)


@dataclass
class Crowd:
    """Connections that are opened and left unfinished."""

    host: str
    port: int
    source: str = ""
    connections: list[socket.socket] = field(default_factory=list)

    def open(self, count: int, sent: bytes, receive_buffer_bytes: int | None = None) -> list[socket.socket]:
        """Open `count` connections that send only `sent`; the kernel buffers at most `receive_buffer_bytes` of each."""
        opened = []
        for _ in range(count):
            connection = socket.socket()
            self.connections.append(connection)
            connection.settimeout(CONNECT_SECONDS)
            if receive_buffer_bytes is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            connection.bind((self.source, 0))
            connection.connect((self.host, self.port))
            opened.append(connection)
            if sent:
                connection.sendall(sent)
        return opened

    def close(self) -> None:
        """Close all connections."""
        for connection in self.connections:
            connection.close()
        self.connections.clear()


@contextmanager
def crowd(host: str, port: int, source: str = "") -> Iterator[Crowd]:
    """Yield a crowd that connects from `source`, and close it when the block ends.

    It raises the limit of open files of this process to the maximum.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = Crowd(host, port, source)
    try:
        yield found
    finally:
        found.close()
