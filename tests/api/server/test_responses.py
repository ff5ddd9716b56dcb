"""Send long responses in pieces at the client's pace; end them if the client does not read."""

import asyncio
import threading
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.api.server import limits
from gateway.api.server.responses import ResponseSender, WsgiResponse, call_application
from gateway.api.server.threads import ThreadPool

pytestmark = pytest.mark.unit

SECONDS = 10


@dataclass
class Client:
    """A client that reads a number of pieces or all of them; it may be disconnected from the start."""

    reads: int | None = None
    gone: bool = False
    messages: list[MutableMapping[str, Any]] = field(default_factory=list)

    async def receive(self) -> MutableMapping[str, Any]:
        if not self.gone:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.reads is not None and len(self.messages) > self.reads:
            await asyncio.get_running_loop().create_future()
        self.messages.append(message)
        await asyncio.sleep(0)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages if "body" in message]

    @property
    def ended(self) -> bool:
        return self.messages[-1].get("more_body") is False


@dataclass
class Pieces:
    """A response body that records the threads that produced it, and whether it was closed."""

    pieces: Iterator[bytes]
    threads: set[str] = field(default_factory=set)
    closed: bool = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.threads.add(threading.current_thread().name)
        return next(self.pieces)

    def close(self) -> None:
        self.closed = True


def sent(client: Client, body: bytes | Pieces) -> Client:
    """Send a response with this body to the client."""

    async def scenario() -> None:
        sender = ResponseSender(ThreadPool(2, "test"))
        response = WsgiResponse(200, [(b"a", b"b")], body)
        await sender.send(response, client.receive, client.send, lambda: "192.0.2.1")

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    return client


def test_a_short_response_is_sent_in_one_message() -> None:
    client = sent(Client(), b"x" * limits.WHOLE_RESPONSE_BYTES)
    assert client.messages[0] == {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
    assert len(client.messages) == 2
    assert client.ended


def test_a_long_response_is_sent_in_pieces() -> None:
    body = bytes(range(256)) * 1024
    client = sent(Client(), body)
    assert b"".join(client.bodies) == body
    assert max(map(len, client.bodies)) == limits.PIECE_BYTES
    assert client.ended


def test_the_iterator_of_a_streamed_response_runs_in_threads_and_is_closed() -> None:
    pieces = Pieces(iter([b"a", b"b" * (limits.PIECE_BYTES + 1), b"", b"c"]))
    client = sent(Client(), pieces)
    assert b"".join(client.bodies) == b"a" + b"b" * (limits.PIECE_BYTES + 1) + b"c"
    assert max(map(len, client.bodies)) == limits.PIECE_BYTES
    assert client.ended
    assert pieces.closed
    assert all(name.startswith("test-") for name in pieces.threads)


def test_a_response_ends_when_its_client_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PIECE_SECONDS", 0.05)
    pieces = Pieces(iter([b"x"] * 1000))
    client = sent(Client(reads=3), pieces)
    assert not client.ended
    assert pieces.closed


def test_a_streamed_response_ends_when_its_client_disconnects() -> None:
    pieces = Pieces(iter([b"x"] * 1000))
    client = sent(Client(gone=True), pieces)
    assert len(client.bodies) < 10
    assert pieces.closed


def test_a_list_becomes_one_body_and_an_iterator_is_kept() -> None:
    def whole(_environ: Any, start: Any) -> list[bytes]:
        start("201 CREATED", [("X", "ä")])
        return [b"a", b"b"]

    def streamed(_environ: Any, start: Any) -> Iterator[bytes]:
        start("200 OK", [])
        return iter([b"a"])

    response = call_application(whole, {})
    assert (response.status, response.headers, response.body) == (201, [(b"X", b"\xe4")], b"ab")
    assert not isinstance(call_application(streamed, {}).body, bytes)
