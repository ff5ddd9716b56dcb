"""The load: merchants' programs that post payments, cancel some, repeat what was not answered, and take notes."""

import random
import threading
import time
from collections import Counter
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
    "tok_refund_decline": 1,
    "tok_refund_error_once": 1,
    "tok_refund_error_always": 1,
    "tok_refund_timeout_done": 1,
    "tok_refund_timeout_not_done": 1,
}
"""Weights of the payment methods."""
CANCELED_SHARE = 0.1
"""Of the payments: so many are canceled, if the gateway has not routed them by then."""
SECOND_THOUGHTS_SECONDS = 0.15
"""The longest time until then: cancels meet payments that wait, are on their way, and have been charged."""


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
    cancels: Counter[str] = field(default_factory=Counter)
    """What became of the requests to cancel: canceled, too late, unanswered."""
    canceled: set[UUID] = field(default_factory=set)
    """Payments of which a client was told that they are canceled."""
    problems: list[str] = field(default_factory=list)


class Caller:
    """A merchant's program: it repeats with the same key what was not answered, until it is told to give up."""

    def __init__(self, api_url: str, token: str, notes: Notes, give_up: threading.Event) -> None:
        self._api_url = api_url
        self._notes = notes
        self._give_up = give_up
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"

    def insist(self, path: str, body: dict[str, object], key: str) -> requests.Response | None:
        """The first answer that does not ask to come again; None when there was none until the end."""
        while not self._give_up.is_set():
            answer = self._post(path, body, key)
            if answer is not None and not _asks_to_come_again(answer):
                return answer
            self._give_up.wait(REPEAT_PAUSE_SECONDS)
        return None

    def complain(self, what: str, answer: requests.Response) -> None:
        """Note an answer that nobody should get."""
        self._notes.problems.append(f"{what}: HTTP {answer.status_code}: {answer.text[:300]}")

    def _post(self, path: str, body: dict[str, object], key: str) -> requests.Response | None:
        """One request; None when no answer came."""
        began = time.monotonic()
        answer: requests.Response | None = None
        with suppress(requests.RequestException):
            answer = self._session.post(
                f"{self._api_url}{path}", json=body, headers={"Idempotency-Key": key}, timeout=REQUEST_SECONDS
            )
        status = answer.status_code if answer is not None else 0
        self._notes.requests.append(Sent(began, time.monotonic() - began, status))
        return answer


def _asks_to_come_again(answer: requests.Response) -> bool:
    if answer.status_code == 409:
        return bool(answer.json()["code"] == "idempotency_in_progress")
    return answer.status_code in {429, 502, 503}


class Load:
    """`payments` payments at an even rate over `seconds`, by several clients at once."""

    def __init__(self, api_url: str, token: str, payments: int, seconds: float, seed: int) -> None:
        self.notes = Notes()
        self._api_url = api_url
        self._token = token
        self._seed = seed
        rng = random.Random(seed)
        self._tokens = rng.choices(list(TOKENS), weights=list(TOKENS.values()), k=payments)
        self._to_cancel = {
            number: rng.uniform(0, SECOND_THOUGHTS_SECONDS)
            for number in range(payments)
            if rng.random() < CANCELED_SHARE
        }
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
        caller = Caller(self._api_url, self._token, self.notes, self._give_up)
        while not self._give_up.is_set():
            with self._lock:
                number, self._next = self._next, self._next + 1
            if number >= len(self._tokens):
                return
            self._give_up.wait(max(0.0, self._start + number * self._pause - time.monotonic()))
            self._pay(caller, number)

    def _pay(self, caller: Caller, number: int) -> None:
        """One payment, repeated with its key until it is answered, and for some of them a change of mind."""
        token = self._tokens[number]
        body: dict[str, object] = {
            "amount": 100 + number,
            "currency": "USD",
            "payment_method": token,
            "reference": f"chaos-{number}",
        }
        answer = caller.insist("/v1/transactions", body, f"chaos-{self._seed}-{number}")
        if answer is None:
            self.notes.unanswered += 1
        elif answer.status_code == 201:
            id = UUID(answer.json()["id"])
            self.notes.accepted[id] = token
            if number in self._to_cancel:
                self._give_up.wait(self._to_cancel[number])
                self._cancel(caller, id)
        else:
            caller.complain(f"payment {number}", answer)

    def _cancel(self, caller: Caller, id: UUID) -> None:
        answer = caller.insist(f"/v1/transactions/{id}/cancel", {}, f"cancel-{id}")
        if answer is None:
            self.notes.cancels["unanswered"] += 1
        elif answer.status_code == 200:
            self.notes.cancels["canceled"] += 1
            self.notes.canceled.add(id)
        elif answer.status_code == 409:
            self.notes.cancels["too late"] += 1
        else:
            caller.complain(f"cancel {id}", answer)
