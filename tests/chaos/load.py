"""The load: clients that post payments, cancel some, repeat unanswered requests, and record the responses."""

import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import requests

REQUEST_SECONDS = 10.0
"""The timeout of clients; a request that takes longer counts as hanging."""
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
    "tok_refund_decline": 1,
    "tok_refund_error_once": 1,
    "tok_refund_error_always": 1,
    "tok_refund_timeout_done": 1,
    "tok_refund_timeout_not_done": 1,
}
"""Weights of the payment methods."""
CANCELED_SHARE = 0.1
"""Share of payments that the client tries to cancel."""
CANCEL_WITHIN_SECONDS = 0.15
"""The longest time until a cancellation, so that some come before routing, some after, and some after the charge."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request: its start, its duration and its status (0 without a response)."""

    at: float
    seconds: float
    status: int


@dataclass(slots=True)
class ClientLog:
    """The responses that the clients got."""

    accepted: dict[UUID, str] = field(default_factory=dict)
    """Transaction id and token of every 201."""
    requests: list[Sent] = field(default_factory=list)
    unanswered: int = 0
    """Payments that were repeated but never got a final response."""
    cancels: Counter[str] = field(default_factory=Counter)
    """Results of the requests to cancel: canceled, too late, unanswered."""
    canceled: set[UUID] = field(default_factory=set)
    """Payments that a client saw canceled."""
    problems: list[str] = field(default_factory=list)


class Caller:
    """A client that repeats unanswered requests with the same key until `stop` is set."""

    def __init__(self, api_url: str, token: str, log: ClientLog, stop: threading.Event) -> None:
        self._api_url = api_url
        self._log = log
        self._stop = stop
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"

    def post_until_final_response(self, path: str, body: dict[str, object], key: str) -> requests.Response | None:
        """Post until a response does not ask for a repetition; return it, or None if `stop` is set first."""
        while not self._stop.is_set():
            response = self._post(path, body, key)
            if response is not None and not _asks_for_repetition(response):
                return response
            self._stop.wait(REPEAT_PAUSE_SECONDS)
        return None

    def note_problem(self, what: str, response: requests.Response) -> None:
        """Record a response that no client should get."""
        self._log.problems.append(f"{what}: HTTP {response.status_code}: {response.text[:300]}")

    def _post(self, path: str, body: dict[str, object], key: str) -> requests.Response | None:
        """Send one request; return None without a response."""
        began = time.monotonic()
        response: requests.Response | None = None
        with suppress(requests.RequestException):
            response = self._session.post(
                f"{self._api_url}{path}", json=body, headers={"Idempotency-Key": key}, timeout=REQUEST_SECONDS
            )
        status = response.status_code if response is not None else 0
        self._log.requests.append(Sent(began, time.monotonic() - began, status))
        return response


def _asks_for_repetition(response: requests.Response) -> bool:
    if response.status_code == 409:
        return bool(response.json()["code"] == "idempotency_in_progress")
    return response.status_code in {429, 502, 503}


class Load:
    """Posts payments at an even rate over `seconds` with several clients."""

    def __init__(self, api_url: str, token: str, payments: int, seconds: float, seed: int) -> None:
        self.log = ClientLog()
        self._api_url = api_url
        self._token = token
        self._seed = seed
        rng = random.Random(seed)
        self._tokens = rng.choices(list(TOKENS), weights=list(TOKENS.values()), k=payments)
        self._to_cancel = {
            number: rng.uniform(0, CANCEL_WITHIN_SECONDS) for number in range(payments) if rng.random() < CANCELED_SHARE
        }
        self._pause = seconds / max(1, payments)
        self._next = 0
        self._lock = threading.Lock()
        self._start = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(THREADS)]

    def start(self) -> None:
        """Start to post."""
        self._start = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> bool:
        """Return whether every payment has been started."""
        return self._next >= len(self._tokens)

    def finish(self, within: float) -> None:
        """Post the rest at once; stop repeating requests after `within` seconds."""
        self._pause = 0.0
        deadline = time.monotonic() + within
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * REQUEST_SECONDS)

    def _client(self) -> None:
        caller = Caller(self._api_url, self._token, self.log, self._stop)
        while not self._stop.is_set():
            with self._lock:
                number, self._next = self._next, self._next + 1
            if number >= len(self._tokens):
                return
            self._stop.wait(max(0.0, self._start + number * self._pause - time.monotonic()))
            self._pay(caller, number)

    def _pay(self, caller: Caller, number: int) -> None:
        """Post a payment, repeat it with its key until it is answered, and cancel it if it is one of those."""
        token = self._tokens[number]
        body: dict[str, object] = {
            "amount": 100 + number,
            "currency": "USD",
            "payment_method": token,
            "reference": f"chaos-{number}",
        }
        response = caller.post_until_final_response("/v1/transactions", body, f"chaos-{self._seed}-{number}")
        if response is None:
            self.log.unanswered += 1
        elif response.status_code == 201:
            id = UUID(response.json()["id"])
            self.log.accepted[id] = token
            if number in self._to_cancel:
                self._stop.wait(self._to_cancel[number])
                self._cancel(caller, id)
        else:
            caller.note_problem(f"payment {number}", response)

    def _cancel(self, caller: Caller, id: UUID) -> None:
        response = caller.post_until_final_response(f"/v1/transactions/{id}/cancel", {}, f"cancel-{id}")
        if response is None:
            self.log.cancels["unanswered"] += 1
        elif response.status_code == 200:
            self.log.cancels["canceled"] += 1
            self.log.canceled.add(id)
        elif response.status_code == 409:
            self.log.cancels["too late"] += 1
        else:
            caller.note_problem(f"cancel {id}", response)
