"""HTTP/1.1 on asyncio streams, with strict and bounded requests.

A web framework gives no access to the socket, which is needed to drop connections at defined moments.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

HEAD_MAX_BYTES = 16 * 1024
BODY_MAX_BYTES = 16 * 1024
IDLE_SECONDS = 300
"""An idle connection is closed after this time, which is longer than clients keep theirs."""
BODY_SECONDS = 10

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Rejected(Exception):
    """The request is rejected with this status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `path` is percent-decoded, segment by segment."""

    method: str
    path: tuple[str, ...]
    query: dict[str, str]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response."""

    status: int
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Stream:
    """A response of any length, sent in chunks."""

    chunks: Iterable[bytes]
    content_type: str


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that need not be HTTP. The connection is closed after them."""

    data: bytes


class Drop:
    """No response: the connection is dropped."""


@dataclass(frozen=True, slots=True)
class Hang:
    """No response: the connection stays open until the client closes it; then `on_disconnect` is called."""

    on_disconnect: Callable[[], None] = lambda: None


Response = Reply | Stream | Raw | Drop | Hang


def json_reply(status: int, value: object) -> Reply:
    """Return `value` as a JSON response."""
    return Reply(status, json.dumps(value, separators=(",", ":")).encode())


def error_reply(status: int, code: str, message: str) -> Reply:
    """Return an error response."""
    return json_reply(status, {"error": {"code": code, "message": message}})


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read the next request; None if the client closed the connection or sent nothing for `IDLE_SECONDS`.

    Raises:
        Rejected: the request is malformed or too large. The connection cannot be used again.
    """
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Rejected(431, "head_too_large", f"The head is larger than {HEAD_MAX_BYTES} bytes.") from None
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        return None
    method, target, version, headers = _parse_head(head)
    length = _body_length(method, headers)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await reader.readexactly(length) if length else b""
    except TimeoutError:
        raise Rejected(408, "body_timeout", f"The body was not received within {BODY_SECONDS} s.") from None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    try:
        parts = urlsplit(target)
    except ValueError:
        raise Rejected(400, "malformed_request", "The target is not a path.") from None
    path = tuple(unquote(segment) for segment in parts.path.strip("/").split("/"))
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return Request(method, path, dict(parse_qsl(parts.query, keep_blank_values=True)), body, keep_alive)


def _parse_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[1].startswith("/") or words[2] not in {"HTTP/1.0", "HTTP/1.1"}:
        raise Rejected(400, "malformed_request", "The request line is not HTTP/1.1.")
    headers = {}
    for line in lines:
        if line:
            name, colon, value = line.partition(":")
            if not colon:
                raise Rejected(400, "malformed_request", "A header line has no colon.")
            headers[name.lower()] = value.strip()
    return words[0], words[1], words[2], headers


def _body_length(method: str, headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Rejected(411, "length_required", "Send a Content-Length.")
    stated = headers.get("content-length")
    if stated is None:
        if method in {"POST", "PUT"}:
            raise Rejected(411, "length_required", "Send a Content-Length.")
        return 0
    if not (stated.isascii() and stated.isdigit()):
        raise Rejected(400, "malformed_request", "Content-Length is not a number.")
    if len(stated) > 9 or int(stated) > BODY_MAX_BYTES:
        raise Rejected(413, "body_too_large", f"The body is larger than {BODY_MAX_BYTES} bytes.")
    return int(stated)


async def write_response(writer: asyncio.StreamWriter, response: Reply | Stream | Raw, *, keep_alive: bool) -> None:
    """Send a response.

    Raises:
        ConnectionError: the client closed the connection.
    """
    match response:
        case Raw():
            writer.write(response.data)
        case Reply():
            head = _head(response.status, response.content_type, f"Content-Length: {len(response.body)}", keep_alive)
            writer.write(head + response.body)
        case Stream():
            writer.write(_head(200, response.content_type, "Transfer-Encoding: chunked", keep_alive))
            for chunk in response.chunks:
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
    await writer.drain()


def _head(status: int, content_type: str, framing: str, keep_alive: bool) -> bytes:  # noqa: FBT001  # private
    reason = _REASONS.get(status, "")
    connection = "" if keep_alive else "Connection: close\r\n"
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n{framing}\r\n{connection}\r\n"
    return head.encode("latin-1")


def object_of(body: bytes) -> dict[str, Any]:
    """Parse the JSON object in a body.

    Raises:
        Rejected: the body is not a JSON object.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Rejected(400, "malformed_json", "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise Rejected(400, "malformed_json", "The body is not a JSON object.")
    return value
