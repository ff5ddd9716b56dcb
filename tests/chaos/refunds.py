"""The merchant's refunds: a part of what is settled is given back, in parts, whole, or too much of it at once."""

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.chaos.load import Caller, Notes

SHARE = 0.25
"""Of the settled payments; those whose payment method is made for refunds are all refunded."""
MADE_FOR_REFUNDS = "tok_refund_"
REPEATED_SHARE = 0.2
"""Of the answered refunds: the merchant sends so many again with their keys, and must get the same answers."""
THREADS = 6


@dataclass(slots=True)
class RefundNotes:
    """What the merchant saw of its refunds. The key of a request is also the `reason` of its refund."""

    accepted: dict[UUID, str] = field(default_factory=dict)
    """Refund id and key of every 201."""
    asked: set[str] = field(default_factory=set)
    too_much: int = 0
    """Requests that were refused because they ask for more than is left."""
    unanswered: int = 0
    replayed: int = 0
    """Answered requests that were sent again and answered the same."""


def parts_of(seed: int, number: int, payment_method: str, amount: int) -> list[int | None]:
    """The refunds that payment `number` gets at the same moment, in minor units; None asks for all that is left."""
    rng = random.Random(f"{seed}-refund-{number}")
    if rng.random() >= SHARE and not payment_method.startswith(MADE_FOR_REFUNDS):
        return []
    part = rng.randint(1, amount - 1)
    plans: list[list[int | None]] = [[None], [part], [part, amount - part], [amount // 2 + 1] * 3, [None, part, None]]
    return rng.choice(plans)


class Refunds:
    """A shop that is told of each settled payment, and refunds some of them with several threads."""

    def __init__(self, api_url: str, token: str, seed: int, notes: Notes) -> None:
        self.notes = RefundNotes()
        self._load_notes = notes
        self._seed = seed
        self._give_up = threading.Event()
        self._own = threading.local()
        self._api_url, self._token = api_url, token
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(THREADS)
        self._futures: list[Future[None]] = []

    def consider(self, event: dict[str, Any]) -> None:
        """Hear of an event; ask for the refunds of a payment that was settled."""
        paid = event["data"]
        if event["type"] != "transaction.completed" or not (paid["reference"] or "").startswith("chaos-"):
            return
        number = int(paid["reference"].removeprefix("chaos-"))
        with self._lock:
            if self._closed:
                return
            for part, amount in enumerate(parts_of(self._seed, number, paid["payment_method"], paid["amount"])):
                key = f"chaos-{self._seed}-refund-{number}-{part}"
                self.notes.asked.add(key)
                self._futures.append(self._pool.submit(self._refund, paid["id"], key, amount))

    def finish(self, within: float) -> None:
        """Begin no more; requests without an answer after `within` seconds are given up."""
        with self._lock:
            self._closed = True
        timer = threading.Timer(within, self._give_up.set)
        timer.start()
        self._pool.shutdown()
        timer.cancel()
        problems = [repr(future.exception()) for future in self._futures if future.exception()]
        self._load_notes.problems += problems

    def _refund(self, transaction_id: str, key: str, amount: int | None) -> None:
        """One refund, repeated with its key until it is answered; now and then once more after that."""
        if not hasattr(self._own, "caller"):
            self._own.caller = Caller(self._api_url, self._token, self._load_notes, self._give_up)
        caller: Caller = self._own.caller
        path = f"/v1/transactions/{transaction_id}/refunds"
        body: dict[str, object] = {"reason": key} | ({} if amount is None else {"amount": amount})
        answer = caller.insist(path, body, key)
        if answer is None:
            self.notes.unanswered += 1
        elif answer.status_code == 422 and answer.json()["code"] == "amount_exceeds_refundable":
            self.notes.too_much += 1
        elif answer.status_code != 201:
            caller.complain(f"refund {key}", answer)
        else:
            self.notes.accepted[UUID(answer.json()["id"])] = key
            if random.Random(key).random() < REPEATED_SHARE:
                again = caller.insist(path, body, key)
                if again is not None and again.content != answer.content:
                    caller.complain(f"refund {key} again, after {answer.text[:300]}", again)
                self.notes.replayed += again is not None
