"""Webhook endpoints of merchants, real receivers for them, and events to deliver."""

import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from gateway.config import settings
from gateway.db import begin
from gateway.domain.webhooks import endpoints as webhook_endpoints
from gateway.flows.settlement import settle
from gateway.states import EventType
from tests.helpers.factories import execute, route_payments


@dataclass(frozen=True)
class Call:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A merchant's receiver: the response that it sends, the requests that it got, and their connections."""

    url: str = ""
    status: int = 200
    location: str | None = None
    answer: bytes = b""
    calls: list[Call] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    before_answer: Callable[[], object] = lambda: None

    def ids(self) -> list[str]:
        """Return the `webhook-id` of every call."""
        return [call.id for call in self.calls]


@contextmanager
def receiver(status: int = 200, certificate: Path | None = None, **options: Any) -> Iterator[Receiver]:
    """Run a receiver that keeps connections open, as most do; with a certificate it uses TLS."""
    made = Receiver(status=status, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.calls.append(Call(self.path, headers, body))
            made.connections.add(self.client_address)
            made.before_answer()
            self.send_response(made.status)
            if made.location:
                self.send_header("Location", made.location)
            self.send_header("Content-Length", str(len(made.answer)))
            self.end_headers()
            self.wfile.write(made.answer)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """Log nothing, because callers are expected to refuse the certificate."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        made.url = f"http://127.0.0.1:{server.server_port}/hooks?shop=7"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def loopback_allowed() -> Iterator[None]:
    """Allow webhooks to this host within the block, as in a development stack."""
    os.environ["WEBHOOK_ALLOW_LOOPBACK"] = "true"
    settings.cache_clear()
    try:
        yield
    finally:
        del os.environ["WEBHOOK_ALLOW_LOOPBACK"]
        settings.cache_clear()


def make_endpoint(merchant_id: UUID, url: str, *types: EventType, consecutive_failures: int = 0) -> tuple[UUID, str]:
    """Create an endpoint for events of `types`, by default all; return its id and its secret."""
    with begin() as connection:
        made = webhook_endpoints.create(connection, merchant_id, url, types or tuple(EventType), "test")
        connection.execute(
            text("UPDATE webhook_endpoints SET consecutive_failures = :failures WHERE id = :id"),
            {"failures": consecutive_failures, "id": made["id"]},
        )
    return UUID(made["id"]), made["secret"]


def complete_payments(merchant_id: UUID, number: int = 1) -> list[UUID]:
    """Create settled payments, each with the events `transaction.completed` and `settlement.completed`."""
    ids = route_payments(merchant_id, *["tok_approve"] * number)
    settle(ids, "task-1")
    return ids


def deliveries(endpoint_id: UUID) -> Sequence[Any]:
    """Return the rows of an endpoint's deliveries, oldest first."""
    with begin() as connection:
        query = text("SELECT * FROM webhook_deliveries WHERE endpoint_id = :id ORDER BY id")
        return connection.execute(query, {"id": endpoint_id}).all()


def statuses(endpoint_id: UUID) -> list[str]:
    """Return the status of each delivery to an endpoint, oldest first."""
    return [row.status for row in deliveries(endpoint_id)]


def attempted(endpoint_id: UUID, attempts: int) -> Callable[[], bool]:
    """Return a function for `eventually`: whether every delivery to an endpoint has had this number of attempts."""
    return lambda: all(row.attempts == attempts for row in deliveries(endpoint_id))


def make_due(endpoint_id: UUID) -> None:
    """Make the pending deliveries to an endpoint due now."""
    due = "UPDATE webhook_deliveries SET next_attempt_at = now() WHERE endpoint_id = :id AND status = 'pending'"
    execute(due, id=endpoint_id)
