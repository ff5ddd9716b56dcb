"""The load generator, a process of its own: `python -m bench.client FILE`, where FILE holds an `Order` as JSON.

It posts payments over keep-alive connections, each with an Idempotency-Key of its own, and writes what it saw beside
the order. One epoll loop on bare sockets, with requests that are made beforehand: the less it takes of the processors,
the more is left to what is measured. Both sides get the same bytes.
"""

import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

RECEIVE_BYTES = 65_536
PATIENCE_SECONDS = 30.0
NUMBER_WIDTH = 9


@dataclass(frozen=True, slots=True)
class Order:
    """What to send. `payments` or `seconds` ends it; with a `rate` (per second) the clients do not wait for answers."""

    port: int
    token: str
    name: str
    clients: int = 16
    payments: int | None = None
    seconds: float | None = None
    rate: float | None = None
    payment_method: str = "tok_approve"


@dataclass(slots=True)
class Seen:
    """What came of it. Times are seconds since the epoch; `milliseconds` has one entry per answer."""

    began: float = 0.0
    ended: float = 0.0
    cpu_seconds: float = 0.0
    ids: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """Answers other than 201, by status."""


class _Client:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0
        self._buffer = b""

    def send(self, request: bytes) -> None:
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def answer(self) -> tuple[int, bytes] | None:
        """Status and body; None while they are not complete."""
        received = self.socket.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionError(f"the server closed a connection after {self._buffer[:200]!r}")
        self._buffer += received
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return None
        self._buffer = b""
        return int(head[9:12]), body


class Load:
    """Payments under way."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._seen = Seen()
        self._bodies: list[bytes] = []
        self._number = 0
        self._clients = [_Client(order.port) for _ in range(order.clients)]
        self._by_file = {client.socket.fileno(): client for client in self._clients}
        self._idle = list(self._clients)
        self._poll = select.epoll()
        for number in self._by_file:
            self._poll.register(number, select.EPOLLIN)
        body = (
            f'{{"amount": 12550, "currency": "USD", "payment_method": "{order.payment_method}",'
            f' "reference": "{order.name}'
        )
        length = len(body) + NUMBER_WIDTH + len('"}')
        self._head = (
            f"POST /v1/transactions HTTP/1.1\r\nHost: 127.0.0.1:{order.port}\r\nAuthorization: Bearer {order.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\nIdempotency-Key: {order.name}"
        ).encode()
        self._middle = f"\r\n\r\n{body}".encode()

    def run(self) -> Seen:
        """Send until the order is fulfilled, take the answers to all of it, and return what was seen."""
        seen = self._seen
        began = time.perf_counter()
        seen.began = time.time()
        while (more := self._feed(time.perf_counter() - began)) or len(self._idle) < len(self._clients):
            due_in = None
            if more and self._idle and self._order.rate is not None:
                due_in = began + self._number / self._order.rate - time.perf_counter()
            self._take(due_in)
        seen.ended = time.time()
        seen.cpu_seconds = time.process_time()
        seen.ids = [json.loads(body)["id"] for body in self._bodies]
        return seen

    def _feed(self, age: float) -> bool:
        """Give idle clients what is due; whether there is more to come."""
        order = self._order
        if order.seconds is not None and age >= order.seconds:
            return False
        due = order.payments if order.rate is None else min(order.payments or 0, int(age * order.rate) + 1)
        while self._idle and (due is None or self._number < due):
            number = str(self._number).zfill(NUMBER_WIDTH).encode()
            self._idle.pop().send(b"".join((self._head, number, self._middle, number, b'"}')))
            self._number += 1
        return order.payments is None or self._number < order.payments

    def _take(self, due_in: float | None) -> None:
        """Take the answers that are there, or wait for the first one, if need be until the next payment is due."""
        events = self._poll.poll(PATIENCE_SECONDS if due_in is None else max(0.0, due_in))
        if not events and due_in is None:
            raise TimeoutError(f"no answer within {PATIENCE_SECONDS:.0f} s")
        for number, _ in events:
            client = self._by_file[number]
            answer = client.answer()
            if answer is None:
                continue
            self._seen.milliseconds.append(round((time.perf_counter() - client.sent) * 1000, 3))
            status, body = answer
            if status == 201:
                self._bodies.append(body)
            else:
                self._seen.refused[str(status)] = self._seen.refused.get(str(status), 0) + 1
            self._idle.append(client)


def main(path: Path) -> None:
    """Carry out the order in a file."""
    seen = Load(Order(**json.loads(path.read_text()))).run()
    path.with_suffix(".seen").write_text(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
