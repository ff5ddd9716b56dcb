"""Send WSGI responses by ASGI, long ones in pieces, so a slow reader occupies neither a thread nor much memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loguru import logger

from gateway.api.server import limits
from gateway.api.server.deadlines import Deadline, Deadlines
from gateway.api.server.headers import Environ
from gateway.api.server.request_bodies import Receive
from gateway.api.server.threads import ThreadPool
from gateway.errors import Overloaded

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class WsgiResponse:
    """The response of a WSGI application. Its body may be an iterator that is not exhausted yet."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes | Iterator[bytes] = b""

    def start(self, status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Callable[[bytes], object]:
        """Set the status and the headers (PEP 3333, start_response)."""
        self.status = int(status[:3])
        self.headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return _refuse_write


def _refuse_write(_data: bytes) -> object:
    raise NotImplementedError("write() of PEP 3333 is not supported")


def call_application(application: "WSGIApplication", environ: Environ) -> WsgiResponse:
    """Return the response of `application`, with the whole body unless it is an iterator."""
    response = WsgiResponse()
    body = application(environ, response.start)
    if isinstance(body, list | tuple):
        response.body = b"".join(body)
    else:
        response.body = iter(body)
    return response


class ResponseSender:
    """Sends the responses of this process."""

    def __init__(self, threads: ThreadPool) -> None:
        self._threads = threads
        self._deadlines = Deadlines(
            seconds=limits.PIECE_SECONDS,
            maximum=limits.SENDING_MAX,
            max_per_address=limits.SENDING_PER_ADDRESS_MAX,
        )

    async def send(self, response: WsgiResponse, receive: Receive, send: Send, client: Callable[[], str]) -> None:
        """Send `response`. `client` returns the address of the client; it is called only for a long response."""
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
        body = response.body
        if isinstance(body, bytes) and len(body) <= limits.WHOLE_RESPONSE_BYTES:
            await send({"type": "http.response.body", "body": body, "more_body": False})
            return
        deadline = self._deadlines.begin(client())
        disconnected = asyncio.ensure_future(_until_disconnect(receive))
        try:
            pieces = _pieces(body) if isinstance(body, bytes) else self._produced(body)
            await self._send_pieces(pieces, send, deadline, disconnected)
        except asyncio.CancelledError:
            reason = deadline.reason()
            if reason is None:
                raise
            logger.info("A client did not read a response to its end: {}", reason.detail)
        finally:
            self._deadlines.finish(deadline)
            disconnected.cancel()
            close = getattr(body, "close", None)
            if close is not None:
                await self._in_thread(close)

    async def _send_pieces(
        self, pieces: AsyncIterator[bytes], send: Send, deadline: Deadline, disconnected: "asyncio.Future[None]"
    ) -> None:
        self._deadlines.pause(deadline)
        async for piece in pieces:
            self._deadlines.renew(deadline)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._deadlines.pause(deadline)
            if disconnected.done():
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _produced(self, body: Iterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            produced = await self._in_thread(lambda: next(body, None))
            if produced is None:
                return
            async for piece in _pieces(produced):
                yield piece

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        """Run `function` in a thread. A response that has begun waits for a thread without a limit."""
        while True:
            with suppress(Overloaded):
                return await self._threads.run(function)
            await asyncio.sleep(1)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), limits.PIECE_BYTES):
        yield body[start : start + limits.PIECE_BYTES]


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
