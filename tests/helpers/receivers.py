"""Real HTTP receivers on free loopback ports: the development receiver, and ones that misbehave."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flask import Flask
from werkzeug.serving import make_server

from gateway.cli.alert_receiver import Received, create_receiver
from gateway.config import settings

LOOPBACK = "127.0.0.1"


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Serve `app` while the block runs; its URL."""
    server = make_server(LOOPBACK, 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def receiving(tell: Callable[[Received], None], fail_with: int | None = None) -> Iterator[str]:
    """The development receiver of alerts; `tell` gets each of them."""
    with served(create_receiver(fail_with=fail_with, on_alert=tell)) as url:
        yield url


@contextmanager
def answering(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server that reads each request's head, and then does what `behave` does with the connection."""

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65_536)
            behave(connection)

    def accept() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def alerts_sent_to(url: str | None, timeout_seconds: int = 10) -> Iterator[None]:
    """The gateway's settings with this receiver of alerts."""
    wanted = {"ALERT_WEBHOOK_URL": url or "", "ALERT_TIMEOUT_SECONDS": str(timeout_seconds)}
    os.environ.update(wanted)
    settings.cache_clear()
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]
        settings.cache_clear()
