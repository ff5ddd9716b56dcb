"""The load: merchants' programs that post payments, repeat with the same key when no answer came, and take notes."""

import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import requests

REQUEST_SECONDS = 10.0
"""A client's patience; an answer later than this counts as a hanging request."""
REPEAT_PAUSE_SECONDS = 0.5
THREADS = 8

TOKENS = {
    "tok_approve": 68,
    "tok_decline_insufficient_funds": 4,
    "tok_decline_fraud": 2,
    "tok_error_once": 6,
    "tok_error_twice": 4,
    "tok_error_thrice": 2,
    "tok_error_always": 2,
    "tok_timeout_charged": 5,
    "tok_timeout_not_charged": 4,
    "tok_slow": 3,
}
"""Weights of the payment methods."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: when it began, how long it took, and its status (0 when no answer came)."""

    at: float
    seconds: float
    status: int


@dataclass(slots=True)
class Notes:
    """What the clients saw."""

    accepted: dict[UUID, str] = field(default_factory=dict)
    """Transaction id and token of every 201."""
    requests: list[Sent] = field(default_factory=list)
    unanswered: int = 0
    """Payments that never got a 201, though repeated: the client was never told that they exist."""
    problems: list[str] = field(default_factory=list)


class Load:
    """`payments` payments at an even rate over `seconds`, by several clients at once."""

    def __init__(self, api_url: str, token: str, payments: int, seconds: float, seed: int) -> None:
        self.notes = Notes()
        self._api_url = api_url
        self._token = token
        self._seed = seed
        self._tokens = random.Random(seed).choices(list(TOKENS), weights=list(TOKENS.values()), k=payments)
        self._pause = seconds / max(1, payments)
        self._next = 0
        self._lock = threading.Lock()
        self._start = 0.0
        self._give_up = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(THREADS)]

    def start(self) -> None:
        """Begin to post."""
        self._start = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> bool:
        """Whether every payment was begun."""
        return self._next >= len(self._tokens)

    def finish(self, within: float) -> None:
        """Post the rest at once; what has no answer after `within` seconds is given up by its client."""
        self._pause = 0.0
        deadline = time.monotonic() + within
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._give_up.set()
        for thread in self._threads:
            thread.join(2 * REQUEST_SECONDS)

    def _client(self) -> None:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self._token}"
        while not self._give_up.is_set():
            with self._lock:
                number, self._next = self._next, self._next + 1
            if number >= len(self._tokens):
                return
            self._give_up.wait(max(0.0, self._start + number * self._pause - time.monotonic()))
            self._pay(session, number)

    def _pay(self, session: requests.Session, number: int) -> None:
        """One payment, repeated with its key until it is answered."""
        token = self._tokens[number]
        body: dict[str, object] = {
            "amount": 100 + number,
            "currency": "USD",
            "payment_method": token,
            "reference": f"chaos-{number}",
        }
        while not self._give_up.is_set():
            answer = self._post(session, body, f"chaos-{self._seed}-{number}")
            if answer is not None and answer.status_code == 201:
                self.notes.accepted[UUID(answer.json()["id"])] = token
                return
            if answer is not None and answer.status_code not in {409, 429, 502, 503}:
                problem = f"payment {number}: HTTP {answer.status_code}: {answer.text[:300]}"
                self.notes.problems.append(problem)
                return
            self._give_up.wait(REPEAT_PAUSE_SECONDS)
        self.notes.unanswered += 1

    def _post(self, session: requests.Session, body: dict[str, object], key: str) -> requests.Response | None:
        """One request; None when no answer came."""
        began = time.monotonic()
        answer: requests.Response | None = None
        with suppress(requests.RequestException):
            answer = session.post(
                f"{self._api_url}/v1/transactions",
                json=body,
                headers={"Idempotency-Key": key},
                timeout=REQUEST_SECONDS,
            )
        status = answer.status_code if answer is not None else 0
        self.notes.requests.append(Sent(began, time.monotonic() - began, status))
        return answer
