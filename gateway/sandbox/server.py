"""The acquirer's connections: keeping them alive, cutting them, and being away altogether."""

import asyncio
import contextlib
import sqlite3
import sys

from gateway.sandbox.acquirer import Acquirer
from gateway.sandbox.behaviour import Control
from gateway.sandbox.store import Store
from gateway.sandbox.wire import (
    HEAD_MAX_BYTES,
    Answer,
    Drop,
    Hang,
    Refused,
    Reply,
    Request,
    error_reply,
    read_request,
    write_answer,
)

BACKLOG = 2_048
REOPEN_PAUSE_SECONDS = 0.1
FINISH_SECONDS = 2


class Server:
    """One listening socket and its connections."""

    def __init__(self, store: Store, host: str, port: int, latency_ms: int) -> None:
        self._acquirer = Acquirer(store, latency_ms, self._follow)
        self._host, self._port = host, port
        self._listener: asyncio.Server | None = None
        self._idle: set[asyncio.StreamWriter] = set()
        self._busy: set[asyncio.StreamWriter] = set()
        self._absence: asyncio.Task[None] | None = None

    async def open(self) -> int:
        """Listen; the port, which the system has chosen when 0 was asked for.

        Raises:
            OSError: the port is taken.
        """
        self._listener = await asyncio.start_server(
            self._serve, self._host, self._port, limit=HEAD_MAX_BYTES, backlog=BACKLOG, reuse_address=True
        )
        self._port = self._listener.sockets[0].getsockname()[1]
        return self._port

    def close(self, *, crash: bool) -> None:
        """Stop listening and close the connections; those in the middle of a call only with `crash`."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in self._idle | (self._busy if crash else set()):
            writer.transport.abort()

    async def finish(self) -> None:
        """Close, and give the calls in hand `FINISH_SECONDS`."""
        self.close(crash=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                while self._busy:
                    await asyncio.sleep(REOPEN_PAUSE_SECONDS)

    def _follow(self, control: Control) -> None:
        if self._absence is not None:
            self._absence.cancel()
            self._absence = None
        if control.mode in {"refuse", "flap"}:
            self.close(crash=False)  # who gets the answer to this call finds the door shut
            self._absence = asyncio.create_task(self._stay_away(control))
        elif self._listener is None:  # told by a call that was in hand while away
            self._absence = asyncio.create_task(self._reopen())

    async def _stay_away(self, control: Control) -> None:
        while True:
            await asyncio.sleep(0)  # the call that asked for it is answered first
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
                sys.stderr.write(f"port {self._port} cannot be opened again yet: {exc}\n")
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
        """Answer one request; whether the connection may carry another."""
        try:
            request = await read_request(reader)
        except Refused as refused:
            await write_answer(writer, error_reply(refused.status, refused.code, refused.message), keep_alive=False)
            return False
        if request is None:
            return False
        self._idle.discard(writer)
        self._busy.add(writer)
        answer = await self._answer(request)
        match answer:
            case Drop():
                writer.transport.abort()
                return False
            case Hang():
                with contextlib.suppress(ConnectionError):
                    while await reader.read(HEAD_MAX_BYTES):
                        pass
                answer.given_up()
                return False
        keep_alive = request.keep_alive and self._listener is not None
        await write_answer(writer, answer, keep_alive=keep_alive)
        self._busy.discard(writer)
        self._idle.add(writer)
        return keep_alive and isinstance(answer, Reply)

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self._acquirer.answer(request)
        except Refused as refused:
            return error_reply(refused.status, refused.code, refused.message)
        except sqlite3.Error as exc:
            sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
            return error_reply(500, "internal_error", "The storage failed.")
