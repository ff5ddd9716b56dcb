"""The merchant's receiver of webhooks: it verifies every call, remembers what it was told, and fails now and then."""

import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

BODY_MAX_BYTES = 20_000
ERRING_SHARE, DROPPING_SHARE, HANGING_SHARE = 0.06, 0.02, 0.01
"""Of the calls: answered with 500, ended without an answer, kept waiting for longer than the gateway waits."""
HANG_SECONDS = 17.0
HANGING_MAX = 4
"""Calls that hang at once; each keeps one of the gateway's and a thread here."""
IDLE_SECONDS = 60
"""A connection without a request for so long belongs to a process that is gone."""


def digest(type: str, timestamp: str, data: dict[str, Any]) -> bytes:
    """What an event says, whatever the order of its members."""
    return hashlib.sha256(json.dumps([type, timestamp, data], sort_keys=True).encode()).digest()


class Receiver:
    """What came. `on_event` is told of every event once, when the receiver takes it."""

    def __init__(self, seed: int) -> None:
        self.url = ""
        self.secret = ""
        self.on_event: Callable[[dict[str, Any]], object] = lambda _: None
        self.taken: Counter[str] = Counter()
        """By `webhook-id`: calls that were answered with 204."""
        self.said: dict[str, bytes] = {}
        """By `webhook-id`: the digest of the event."""
        self.failures: Counter[str] = Counter()
        self.problems: list[str] = []
        self._bodies: dict[str, bytes] = {}
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._hanging = threading.Semaphore(HANGING_MAX)
        self._calm = threading.Event()

    def calm_down(self) -> None:
        """Fail no more; calls that hang end without an answer."""
        self._calm.set()

    def take(self, headers: dict[str, str], body: bytes) -> int | None:
        """Verify and note a call; the status of the answer, None for no answer at all."""
        try:
            event = Webhook(self.secret).verify(body, headers)
        except (WebhookVerificationError, ValueError) as exc:
            self.problems.append(f"webhook {headers.get('webhook-id')}: {exc!r}")
            return 400
        id = headers["webhook-id"]
        with self._lock:
            self.said[id] = digest(event["type"], event["timestamp"], event["data"])
            if self._bodies.setdefault(id, hashlib.sha256(body).digest()) != hashlib.sha256(body).digest():
                self.problems.append(f"webhook {id} came with another body")
            failure = self._draw_failure()
            if failure is not None:
                self.failures[failure] += 1
            else:
                self.taken[id] += 1
            new = failure is None and self.taken[id] == 1
        if new:
            self.on_event(event)
        if failure is None:
            return 204
        if failure == "hung" and self._hanging.acquire(blocking=False):
            self._calm.wait(HANG_SECONDS)
            self._hanging.release()
        return 500 if failure == "erred" else None

    def _draw_failure(self) -> str | None:
        drawn = 1.0 if self._calm.is_set() else self._rng.random()
        for failure, share in (("erred", ERRING_SHARE), ("dropped", DROPPING_SHARE), ("hung", HANGING_SHARE)):
            if drawn < share:
                return failure
            drawn -= share
        return None


@contextmanager
def listening(seed: int) -> Iterator[Receiver]:
    """A receiver on a free loopback port while the block runs."""
    receiver = Receiver(seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = IDLE_SECONDS

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            if length >= BODY_MAX_BYTES:
                receiver.problems.append(f"a webhook of {length} bytes")
                self.close_connection = True
                return
            body = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take(headers, body) if len(body) == length else None  # its sender was killed
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """Say nothing: a caller that was killed in the middle of a call is what this is about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hooks"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.calm_down()
            server.shutdown()
            thread.join()
