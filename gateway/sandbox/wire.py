"""HTTP/1.1 on asyncio streams: strict and bounded requests in, answers out.

A web framework would put the socket out of reach, and dropping connections at chosen moments is what this is for.
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
"""An idle connection is closed then: later than clients keep theirs, so that they rarely meet a closed one."""
BODY_SECONDS = 10

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Refused(Exception):
    """The request cannot be served; answered as an error with this status, code and message."""

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
    """A whole answer."""

    status: int
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer of any length, sent chunk by chunk."""

    chunks: Iterable[bytes]
    content_type: str


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that need not be HTTP; the connection is closed after them."""

    data: bytes


class Drop:
    """No answer: the connection is cut."""


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer: the connection stays open until the client gives up, which is then told to `given_up`."""

    given_up: Callable[[], None] = lambda: None


Answer = Reply | Stream | Raw | Drop | Hang


def json_reply(status: int, value: object) -> Reply:
    """`value` as a JSON answer."""
    return Reply(status, json.dumps(value, separators=(",", ":")).encode())


def error_reply(status: int, code: str, message: str) -> Reply:
    """An error in the shape that all errors have."""
    return json_reply(status, {"error": {"code": code, "message": message}})


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The connection's next request; None when the client closed it or said nothing for `IDLE_SECONDS`.

    Raises:
        Refused: the request is malformed or too large; the connection cannot be used further.
    """
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Refused(431, "head_too_large", f"The head is larger than {HEAD_MAX_BYTES} bytes.") from None
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        return None
    method, target, version, headers = _parse_head(head)
    length = _body_length(method, headers)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await reader.readexactly(length) if length else b""
    except TimeoutError:
        raise Refused(408, "body_timeout", f"The body did not come within {BODY_SECONDS} s.") from None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    try:
        parts = urlsplit(target)
    except ValueError:
        raise Refused(400, "malformed_request", "The target is not a path.") from None
    path = tuple(unquote(segment) for segment in parts.path.strip("/").split("/"))
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return Request(method, path, dict(parse_qsl(parts.query, keep_blank_values=True)), body, keep_alive)


def _parse_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[1].startswith("/") or words[2] not in {"HTTP/1.0", "HTTP/1.1"}:
        raise Refused(400, "malformed_request", "The request line is not HTTP/1.1.")
    headers = {}
    for line in lines:
        if line:
            name, colon, value = line.partition(":")
            if not colon:
                raise Refused(400, "malformed_request", "A header line has no colon.")
            headers[name.lower()] = value.strip()
    return words[0], words[1], words[2], headers


def _body_length(method: str, headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Refused(411, "length_required", "Send a Content-Length.")
    stated = headers.get("content-length")
    if stated is None:
        if method in {"POST", "PUT"}:
            raise Refused(411, "length_required", "Send a Content-Length.")
        return 0
    if not (stated.isascii() and stated.isdigit()):
        raise Refused(400, "malformed_request", "Content-Length is not a number.")
    if len(stated) > 9 or int(stated) > BODY_MAX_BYTES:
        raise Refused(413, "body_too_large", f"The body is larger than {BODY_MAX_BYTES} bytes.")
    return int(stated)


async def write_answer(writer: asyncio.StreamWriter, answer: Reply | Stream | Raw, *, keep_alive: bool) -> None:
    """Send `answer`.

    Raises:
        ConnectionError: the client is gone.
    """
    match answer:
        case Raw():
            writer.write(answer.data)
        case Reply():
            head = _head(answer.status, answer.content_type, f"Content-Length: {len(answer.body)}", keep_alive)
            writer.write(head + answer.body)
        case Stream():
            writer.write(_head(200, answer.content_type, "Transfer-Encoding: chunked", keep_alive))
            for chunk in answer.chunks:
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
    """The JSON object in a body.

    Raises:
        Refused: it is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "malformed_json", "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise Refused(400, "malformed_json", "The body is not a JSON object.")
    return value
