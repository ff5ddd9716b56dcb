"""The connections of the acquirer, and the modes in which it is unavailable."""

import asyncio
import contextlib
import sqlite3
import sys

from gateway.sandbox.acquirer import Acquirer
from gateway.sandbox.behaviour import Control
from gateway.sandbox.store import Store
from gateway.sandbox.wire import (
    HEAD_MAX_BYTES,
    Drop,
    Hang,
    Rejected,
    Reply,
    Request,
    Response,
    error_reply,
    read_request,
    write_response,
)

BACKLOG = 2_048
REOPEN_PAUSE_SECONDS = 0.1
FINISH_SECONDS = 2


class Server:
    """A listening socket and its connections."""

    def __init__(self, store: Store, host: str, port: int, latency_ms: int) -> None:
        self._acquirer = Acquirer(store, latency_ms, self._apply)
        self._host, self._port = host, port
        self._listener: asyncio.Server | None = None
        self._idle: set[asyncio.StreamWriter] = set()
        self._busy: set[asyncio.StreamWriter] = set()
        self._outage: asyncio.Task[None] | None = None

    async def open(self) -> int:
        """Listen and return the port, which the system chooses if it is 0.

        Raises:
            OSError: the port is in use.
        """
        self._listener = await asyncio.start_server(
            self._serve, self._host, self._port, limit=HEAD_MAX_BYTES, backlog=BACKLOG, reuse_address=True
        )
        self._port = self._listener.sockets[0].getsockname()[1]
        return self._port

    def close(self, *, crash: bool) -> None:
        """Stop listening and close idle connections; with `crash`, also those with a call in progress."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in self._idle | (self._busy if crash else set()):
            writer.transport.abort()

    async def finish(self) -> None:
        """Close, and wait at most `FINISH_SECONDS` for the calls in progress."""
        self.close(crash=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                while self._busy:
                    await asyncio.sleep(REOPEN_PAUSE_SECONDS)

    def _apply(self, control: Control) -> None:
        if self._outage is not None:
            self._outage.cancel()
            self._outage = None
        if control.mode in {"refuse", "flap"}:
            self.close(crash=False)  # before the response to this call, so that the next connection is refused
            self._outage = asyncio.create_task(self._be_unavailable(control))
        elif self._listener is None:  # the call was in progress when the outage began
            self._outage = asyncio.create_task(self._reopen())

    async def _be_unavailable(self, control: Control) -> None:
        while True:
            await asyncio.sleep(0)  # the response to this call is sent first
            self.close(crash=control.mode == "flap")
            await asyncio.sleep(control.seconds)
            await self._reopen()
            if control.mode == "refuse":
                self._acquirer.control = control.model_copy(update={"mode": "normal"})
                return
            await asyncio.sleep(control.seconds)

    async def _reopen(self) -> None:
        while True:
            try:
                await self.open()
            except OSError as exc:
                sys.stderr.write(f"cannot listen on port {self._port} yet: {exc}\n")
                await asyncio.sleep(REOPEN_PAUSE_SECONDS)
            else:
                return

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._idle.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except ConnectionError:
            pass  # the client is gone
        finally:
            self._idle.discard(writer)
            self._busy.discard(writer)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Process one request and return whether the connection may be used again."""
        try:
            request = await read_request(reader)
        except Rejected as rejected:
            await write_response(
                writer, error_reply(rejected.status, rejected.code, rejected.message), keep_alive=False
            )
            return False
        if request is None:
            return False
        self._idle.discard(writer)
        self._busy.add(writer)
        response = await self._respond(request)
        match response:
            case Drop():
                writer.transport.abort()
                return False
            case Hang():
                with contextlib.suppress(ConnectionError):
                    while await reader.read(HEAD_MAX_BYTES):
                        pass
                response.on_disconnect()
                return False
        keep_alive = request.keep_alive and self._listener is not None
        await write_response(writer, response, keep_alive=keep_alive)
        self._busy.discard(writer)
        self._idle.add(writer)
        return keep_alive and isinstance(response, Reply)

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._acquirer.respond(request)
        except Rejected as rejected:
            return error_reply(rejected.status, rejected.code, rejected.message)
        except sqlite3.Error as exc:
            sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
            return error_reply(500, "internal_error", "The storage failed.")
