"""The limits of the time that a process waits for an answer of PostgreSQL."""

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from gateway import database_sessions, db
from gateway.answer_timeouts import AnswerTimeouts, answer_timeouts
from gateway.config import settings
from tests.helpers.engines import engine_on


class FreezableProxy:
    """Forward the connections to the database; after `freeze`, forward nothing."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._frozen = threading.Event()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        self._frozen.set()

    def close(self) -> None:
        self._server.close()
        for connected in self._sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                target = socket.create_connection(self._target)
                self._sockets += (client, target)
                for source, sink in ((client, target), (target, client)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with source, suppress(OSError):
            while data := source.recv(65_536):
                if self._frozen.is_set():
                    continue
                sink.sendall(data)
            with suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied_engine() -> Iterator[FreezableProxy]:
    url = urlsplit(settings().database_url)
    proxy = FreezableProxy(url.hostname or "127.0.0.1", url.port or 5432)
    address = f"{url.username}:{url.password}@127.0.0.1:{proxy.port}"
    with engine_on(urlunsplit(url._replace(netloc=address))):
        try:
            yield proxy
        finally:
            proxy.close()


def test_the_first_connection_of_a_process_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = database_sessions.connect

    with proxied_engine() as proxy:

        def connect_and_freeze(parameters: Mapping[str, Any]) -> psycopg.Connection[Any]:
            connection = connect(parameters)
            proxy.freeze()
            return connection

        monkeypatch.setattr(database_sessions, "connect", connect_and_freeze)
        backstop = threading.Timer(settings().database_timeout_seconds, proxy.close)  # so that a failure does not hang
        backstop.start()
        began = time.monotonic()
        with pytest.raises(db.UNAVAILABLE), db.answer_timeout(0.5), db.autocommit() as connection:
            connection.execute(text("SELECT 1"))
        backstop.cancel()
        assert time.monotonic() - began < settings().database_timeout_seconds
    assert answer_timeouts.awaited == 0


def test_no_limit_remains_after_any_use_of_a_connection() -> None:
    for _ in range(3):
        with db.listening("test_channel") as wait_for_notification:
            wait_for_notification(0)
        with db.begin() as connection:
            connection.execute(text("SELECT 1"))
        with pytest.raises(OperationalError), db.answer_timeout(0.2), db.autocommit() as connection:
            connection.execute(text("SELECT pg_sleep(5)"))
    assert answer_timeouts.awaited == 0


def test_a_thread_that_could_not_be_started_is_started_with_the_next_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = AnswerTimeouts()
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

    def fail_once(thread: threading.Thread) -> None:
        if failures:
            raise failures.pop()
        start(thread)

    with db.autocommit() as connection, db.driver_connection(connection) as driver:
        monkeypatch.setattr(threading.Thread, "start", fail_once)
        with pytest.raises(RuntimeError):
            timeouts.start(driver, 60)
        timeouts.start(driver, 60)
        names = [thread.name for thread in threading.enumerate()]
        timeouts.stop(driver)
    assert names.count("answer-timeouts") >= 1
    assert timeouts.awaited == 0
