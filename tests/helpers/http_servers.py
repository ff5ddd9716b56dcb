"""HTTP servers on free loopback ports."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flask import Flask
from werkzeug.serving import make_server

LOOPBACK = "127.0.0.1"


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Serve an application within the block; yield its URL."""
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
def answering(respond: Callable[[socket.socket], object]) -> Iterator[str]:
    """Run a server that reads the head of each request and then calls `respond` with the connection; yield its URL."""

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65_536)
            respond(connection)

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
