"""The load generator, a separate process: `python -m bench.client FILE`. FILE contains a `LoadPlan` as JSON.

It posts payments over keep-alive connections, each with another Idempotency-Key, and writes the responses to a file
beside the plan. It is an epoll loop on plain sockets with requests that are prepared in advance, so that it leaves
most of the processors to the measured side. Both sides get the same bytes.
"""

import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

RECEIVE_BYTES = 65_536
TIMEOUT_SECONDS = 30.0
NUMBER_WIDTH = 9


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The load. `payments` or `seconds` limits it; with a `rate` (per second) clients do not wait for responses."""

    port: int
    token: str
    name: str
    clients: int = 16
    payments: int | None = None
    seconds: float | None = None
    rate: float | None = None
    payment_method: str = "tok_approve"


@dataclass(slots=True)
class Responses:
    """The received responses. Times are seconds since the epoch; `milliseconds` has an entry for each response."""

    began: float = 0.0
    ended: float = 0.0
    cpu_seconds: float = 0.0
    ids: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """Responses other than 201, counted by status."""


class _Client:
    """A keep-alive connection with at most one pending request."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0
        self._buffer = b""

    def send(self, request: bytes) -> None:
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def response(self) -> tuple[int, bytes] | None:
        """Return the status and the body, or None while the response is incomplete."""
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
    """Sends the payments of a plan."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._responses = Responses()
        self._bodies: list[bytes] = []
        self._number = 0
        self._clients = [_Client(plan.port) for _ in range(plan.clients)]
        self._by_file = {client.socket.fileno(): client for client in self._clients}
        self._idle = list(self._clients)
        self._poll = select.epoll()
        for number in self._by_file:
            self._poll.register(number, select.EPOLLIN)
        body = (
            f'{{"amount": 12550, "currency": "USD", "payment_method": "{plan.payment_method}",'
            f' "reference": "{plan.name}'
        )
        length = len(body) + NUMBER_WIDTH + len('"}')
        self._head = (
            f"POST /v1/transactions HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nAuthorization: Bearer {plan.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\nIdempotency-Key: {plan.name}"
        ).encode()
        self._middle = f"\r\n\r\n{body}".encode()

    def run(self) -> Responses:
        """Send all payments of the plan, wait for every response, and return the responses."""
        responses = self._responses
        began = time.perf_counter()
        responses.began = time.time()
        while (more := self._feed(time.perf_counter() - began)) or len(self._idle) < len(self._clients):
            due_in = None
            if more and self._idle and self._plan.rate is not None:
                due_in = began + self._number / self._plan.rate - time.perf_counter()
            self._take(due_in)
        responses.ended = time.time()
        responses.cpu_seconds = time.process_time()
        responses.ids = [json.loads(body)["id"] for body in self._bodies]
        return responses

    def _feed(self, age: float) -> bool:
        """Send the payments that are due on idle connections; return whether more will follow."""
        plan = self._plan
        if plan.seconds is not None and age >= plan.seconds:
            return False
        due = plan.payments if plan.rate is None else min(plan.payments or 0, int(age * plan.rate) + 1)
        while self._idle and (due is None or self._number < due):
            number = str(self._number).zfill(NUMBER_WIDTH).encode()
            self._idle.pop().send(b"".join((self._head, number, self._middle, number, b'"}')))
            self._number += 1
        return plan.payments is None or self._number < plan.payments

    def _take(self, due_in: float | None) -> None:
        """Read the responses that have arrived; if none has, wait for one or until the next payment is due."""
        events = self._poll.poll(TIMEOUT_SECONDS if due_in is None else max(0.0, due_in))
        if not events and due_in is None:
            raise TimeoutError(f"no response within {TIMEOUT_SECONDS:.0f} s")
        for number, _ in events:
            client = self._by_file[number]
            response = client.response()
            if response is None:
                continue
            self._responses.milliseconds.append(round((time.perf_counter() - client.sent) * 1000, 3))
            status, body = response
            if status == 201:
                self._bodies.append(body)
            else:
                self._responses.refused[str(status)] = self._responses.refused.get(str(status), 0) + 1
            self._idle.append(client)


def main(path: Path) -> None:
    """Carry out the plan in a file."""
    responses = Load(LoadPlan(**json.loads(path.read_text()))).run()
    path.with_suffix(".responses").write_text(json.dumps(asdict(responses)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
