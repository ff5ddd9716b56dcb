"""Receive request bodies in the event loop, before a thread is used, bounded in size, time and number."""

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from gateway.api.http.request_content import BODY_MAX_BYTES
from gateway.api.server import limits
from gateway.api.server.deadlines import Deadlines
from gateway.api.server.headers import Environ
from gateway.domain.merchants.rate_limits import network_of
from gateway.errors import MalformedRequest

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

ADDRESSES_MAX = 10_000
_network = lru_cache(ADDRESSES_MAX)(network_of)


class BodyReceiver:
    """Receives the request bodies of this process."""

    def __init__(self, *, trusted_proxies: int, seconds: float) -> None:
        self._trusted_proxies = trusted_proxies
        self._small = Deadlines(
            seconds=seconds,
            maximum=limits.RECEIVING_MAX,
            max_per_address=limits.RECEIVING_PER_ADDRESS_MAX,
        )
        self._uploads = Deadlines(
            seconds=limits.UPLOAD_SECONDS,
            maximum=limits.UPLOADS_MAX,
            max_per_address=limits.UPLOADS_PER_ADDRESS_MAX,
        )

    def client_of(self, environ: Environ) -> str:
        """Return the network of the client as a trusted proxy reports it: an IPv4 address, or the /64 of IPv6."""
        address: str = environ["REMOTE_ADDR"]
        if self._trusted_proxies and "HTTP_X_FORWARDED_FOR" in environ:
            addresses = environ["HTTP_X_FORWARDED_FOR"].split(",")
            if len(addresses) >= self._trusted_proxies:
                address = addresses[-self._trusted_proxies].strip()
        return _network(address)

    async def receive(self, environ: Environ, receive: Receive) -> IO[bytes]:
        """Return the body. One that is too long is truncated so that the application still rejects it as too long.

        Raises:
            MalformedRequest: it ended early.
            RateLimited: there are too many unfinished bodies.
            RequestTimeout: it took too long.
        """
        if not _is_received(environ, BODY_MAX_BYTES):
            return io.BytesIO()
        return await self._received(environ, receive, self._small, BODY_MAX_BYTES, io.BytesIO())

    async def receive_upload(self, environ: Environ, receive: Receive, max_bytes: int) -> IO[bytes]:
        """Return a file of at most `max_bytes`; raise the same errors as `receive`."""
        if not _is_received(environ, max_bytes):
            return io.BytesIO()
        file = SpooledTemporaryFile(limits.UPLOAD_MEMORY_BYTES)  # noqa: SIM115  # closed after the response
        try:
            return await self._received(environ, receive, self._uploads, max_bytes, file)
        except BaseException:
            file.close()
            raise

    async def _received(
        self, environ: Environ, receive: Receive, deadlines: Deadlines, max_bytes: int, file: IO[bytes]
    ) -> IO[bytes]:
        deadline = deadlines.begin(self.client_of(environ))
        try:
            length, parts, more = 0, 0, True
            declared = None if "HTTP_TRANSFER_ENCODING" in environ else environ.get("CONTENT_LENGTH")
            while more and length <= max_bytes:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise MalformedRequest("The body ended early.")
                length += file.write(message["body"])
                parts += 1
                if parts > limits.PARTS_FREE and length < parts * limits.PART_MIN_BYTES:
                    raise MalformedRequest("The body has too many small parts.")
                more = message["more_body"] and declared != str(length)
        except asyncio.CancelledError:
            reason = deadline.reason()
            if reason is None:
                raise
            raise reason from None
        finally:
            deadlines.finish(deadline)
        file.seek(0)
        return file


def _is_received(environ: Environ, max_bytes: int) -> bool:
    """Return whether to receive a body; one whose Content-Length is too large is rejected by the application unread."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return True
    declared: str = environ.get("CONTENT_LENGTH", "0")
    digits = declared.lstrip("0")
    return digits != "" and (len(digits) < len(str(max_bytes + 1)) or (int(digits[:19]) <= max_bytes + 1))
