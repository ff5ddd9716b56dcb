"""Send WSGI responses by ASGI, long ones in pieces, so a slow reader occupies neither a thread nor much memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loguru import logger

from gateway.api.server import limits
from gateway.api.server.bodies import Receive
from gateway.api.server.heads import Environ
from gateway.api.server.threads import Threads
from gateway.api.server.waits import Wait, Waits
from gateway.errors import Overloaded

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class WsgiAnswer:
    """The response of a WSGI application; its body may be an iterator that is not exhausted yet."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes | Iterator[bytes] = b""

    def start(self, status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Callable[[bytes], object]:
        """Take the status line and the headers (PEP 3333, start_response)."""
        self.status = int(status[:3])
        self.headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return _refuse_write


def _refuse_write(_data: bytes) -> object:
    raise NotImplementedError("write() of PEP 3333 is not supported")


def call(application: "WSGIApplication", environ: Environ) -> WsgiAnswer:
    """Return the response of `application`, with the whole body unless it is an iterator."""
    answer = WsgiAnswer()
    body = application(environ, answer.start)
    if isinstance(body, list | tuple):
        answer.body = b"".join(body)
    else:
        answer.body = iter(body)
    return answer


class Answers:
    """Sends the responses of this process."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._waits = Waits(
            seconds=limits.PIECE_SECONDS,
            most=limits.SENDING_MAX,
            most_per_address=limits.SENDING_PER_ADDRESS_MAX,
        )

    async def send(self, answer: WsgiAnswer, receive: Receive, send: Send, client: Callable[[], str]) -> None:
        """Send `answer`; `client` returns the address of the client, and is called for a long one only."""
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        body = answer.body
        if isinstance(body, bytes) and len(body) <= limits.WHOLE_ANSWER_BYTES:
            await send({"type": "http.response.body", "body": body, "more_body": False})
            return
        wait = self._waits.begin(client())
        gone = asyncio.ensure_future(_until_disconnect(receive))
        try:
            pieces = _pieces(body) if isinstance(body, bytes) else self._made(body)
            await self._send_pieces(pieces, send, wait, gone)
        except asyncio.CancelledError:
            reason = wait.reason()
            if reason is None:
                raise
            logger.info("A client did not read a response to its end: {}", reason.detail)
        finally:
            self._waits.finish(wait)
            gone.cancel()
            close = getattr(body, "close", None)
            if close is not None:
                await self._in_thread(close)

    async def _send_pieces(
        self, pieces: AsyncIterator[bytes], send: Send, wait: Wait, gone: "asyncio.Future[None]"
    ) -> None:
        self._waits.pause(wait)
        async for piece in pieces:
            self._waits.renew(wait)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._waits.pause(wait)
            if gone.done():
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _made(self, body: Iterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            made = await self._in_thread(lambda: next(body, None))
            if made is None:
                return
            async for piece in _pieces(made):
                yield piece

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        """Run in a thread; a response that has begun waits for a thread without a limit."""
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
