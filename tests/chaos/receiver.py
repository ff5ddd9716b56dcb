"""The merchant's receiver of webhooks: it verifies and records every call, and fails sometimes."""

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
"""Shares of calls: answered with 500, closed without a response, held for longer than the gateway waits."""
HANG_SECONDS = 17.0
HANGING_MAX = 4
"""The greatest number of calls that hang at once; each occupies a thread here and a call of the gateway."""
IDLE_SECONDS = 60
"""A connection without a request for this time belongs to a process that has ended."""


def digest(type: str, timestamp: str, data: dict[str, Any]) -> bytes:
    """Return a digest of an event that does not depend on the order of its members."""
    return hashlib.sha256(json.dumps([type, timestamp, data], sort_keys=True).encode()).digest()


class Receiver:
    """The received calls. `on_event` is called once per event, when the receiver accepts it."""

    def __init__(self, seed: int) -> None:
        self.url = ""
        self.secret = ""
        self.on_event: Callable[[dict[str, Any]], object] = lambda _: None
        self.accepted: Counter[str] = Counter()
        """Number of calls that were answered with 204, by `webhook-id`."""
        self.digests: dict[str, bytes] = {}
        """Digest of the event, by `webhook-id`."""
        self.failures: Counter[str] = Counter()
        self.problems: list[str] = []
        self._bodies: dict[str, bytes] = {}
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._hanging = threading.Semaphore(HANGING_MAX)
        self._healthy = threading.Event()

    def stop_failing(self) -> None:
        """Stop failing; end hanging calls without a response."""
        self._healthy.set()

    def take(self, headers: dict[str, str], body: bytes) -> int | None:
        """Verify and record a call; return the status of the response, or None to send none."""
        try:
            event = Webhook(self.secret).verify(body, headers)
        except (WebhookVerificationError, ValueError) as exc:
            self.problems.append(f"webhook {headers.get('webhook-id')}: {exc!r}")
            return 400
        id = headers["webhook-id"]
        with self._lock:
            self.digests[id] = digest(event["type"], event["timestamp"], event["data"])
            if self._bodies.setdefault(id, hashlib.sha256(body).digest()) != hashlib.sha256(body).digest():
                self.problems.append(f"webhook {id} has another body than before")
            failure = self._draw_failure()
            if failure is not None:
                self.failures[failure] += 1
            else:
                self.accepted[id] += 1
            new = failure is None and self.accepted[id] == 1
        if new:
            self.on_event(event)
        if failure is None:
            return 204
        if failure == "hung" and self._hanging.acquire(blocking=False):
            self._healthy.wait(HANG_SECONDS)
            self._hanging.release()
        return 500 if failure == "erred" else None

    def _draw_failure(self) -> str | None:
        drawn = 1.0 if self._healthy.is_set() else self._rng.random()
        for failure, share in (("erred", ERRING_SHARE), ("dropped", DROPPING_SHARE), ("hung", HANGING_SHARE)):
            if drawn < share:
                return failure
            drawn -= share
        return None


@contextmanager
def listening(seed: int) -> Iterator[Receiver]:
    """Run a receiver on a free loopback port within the block."""
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
            status = receiver.take(headers, body) if len(body) == length else None  # otherwise its sender was killed
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """Log nothing, because callers are expected to be killed during a call."""

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hooks"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.stop_failing()
            server.shutdown()
            thread.join()
