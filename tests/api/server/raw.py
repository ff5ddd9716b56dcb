"""Send raw requests, and read the responses."""

import json
import socket
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

SECONDS = 20


@dataclass(frozen=True)
class RawResponse:
    """The response to a request made of bytes."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def code(self) -> Any:
        """Return the code of the problem document."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        return json.loads(self.body)["code"]


def read_response(connection: socket.socket) -> RawResponse:
    """Read the response on a connection."""
    response = HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return RawResponse(response.status, response.read(), headers)


def ask(port: int, request: bytes, source: str = "127.0.0.1") -> RawResponse:
    """Send the bytes of a request from the address `source`, and return the response."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS, source_address=(source, 0)) as connection:
        connection.sendall(request)
        return read_response(connection)


def payment(token: object, headers: bytes = b"") -> bytes:
    """Return the bytes of a request that creates a payment, with these additional header lines."""
    body = b'{"amount": 1000, "currency": "USD"}'
    head = (
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Authorization: Bearer %s\r\n%s\r\n"
    )
    return head % (len(body), str(token).encode(), headers) + body


def get(port: int, path: bytes, headers: bytes = b"Host: x\r\n", source: str = "127.0.0.1") -> RawResponse:
    """Send a GET request with exactly this path and these header lines."""
    return ask(port, b"GET " + path + b" HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n", source)
