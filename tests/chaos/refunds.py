"""The merchant's refunds: some settled payments are refunded, in parts, in full, or beyond their amount."""

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.chaos.load import Caller, ClientLog

SHARE = 0.25
"""Share of settled payments that are refunded; those with a payment method for refunds all are."""
REFUND_TOKENS = "tok_refund_"
REPEATED_SHARE = 0.2
"""Share of answered refunds that the merchant sends again with their keys; the responses must be the same."""
THREADS = 6


@dataclass(slots=True)
class RefundLog:
    """The merchant's view of its refunds. The key of a request is also the `reason` of its refund."""

    accepted: dict[UUID, str] = field(default_factory=dict)
    """Refund id and key of every 201."""
    requested: set[str] = field(default_factory=set)
    too_much: int = 0
    """Requests that were refused because of their amount."""
    unanswered: int = 0
    replayed: int = 0
    """Answered requests that were sent again and got the same response."""


def parts_of(seed: int, number: int, payment_method: str, amount: int) -> list[int | None]:
    """Return the amounts of simultaneous refunds of payment `number` in minor units; None is the remaining amount."""
    rng = random.Random(f"{seed}-refund-{number}")
    if rng.random() >= SHARE and not payment_method.startswith(REFUND_TOKENS):
        return []
    part = rng.randint(1, amount - 1)
    plans: list[list[int | None]] = [[None], [part], [part, amount - part], [amount // 2 + 1] * 3, [None, part, None]]
    return rng.choice(plans)


class Refunds:
    """Refunds some of the settled payments, with several threads."""

    def __init__(self, api_url: str, token: str, seed: int, log: ClientLog) -> None:
        self.log = RefundLog()
        self._load_log = log
        self._seed = seed
        self._stop = threading.Event()
        self._own = threading.local()
        self._api_url, self._token = api_url, token
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(THREADS)
        self._futures: list[Future[None]] = []

    def handle(self, event: dict[str, Any]) -> None:
        """Handle an event; request the refunds of a settled payment."""
        paid = event["data"]
        if event["type"] != "transaction.completed" or not (paid["reference"] or "").startswith("chaos-"):
            return
        number = int(paid["reference"].removeprefix("chaos-"))
        with self._lock:
            if self._closed:
                return
            for part, amount in enumerate(parts_of(self._seed, number, paid["payment_method"], paid["amount"])):
                key = f"chaos-{self._seed}-refund-{number}-{part}"
                self.log.requested.add(key)
                self._futures.append(self._pool.submit(self._refund, paid["id"], key, amount))

    def finish(self, within: float) -> None:
        """Start no more refunds; stop repeating requests after `within` seconds."""
        with self._lock:
            self._closed = True
        timer = threading.Timer(within, self._stop.set)
        timer.start()
        self._pool.shutdown()
        timer.cancel()
        problems = [repr(future.exception()) for future in self._futures if future.exception()]
        self._load_log.problems += problems

    def _refund(self, transaction_id: str, key: str, amount: int | None) -> None:
        """Request a refund, repeat it with its key until it is answered, and sometimes once more."""
        if not hasattr(self._own, "caller"):
            self._own.caller = Caller(self._api_url, self._token, self._load_log, self._stop)
        caller: Caller = self._own.caller
        path = f"/v1/transactions/{transaction_id}/refunds"
        body: dict[str, object] = {"reason": key} | ({} if amount is None else {"amount": amount})
        response = caller.post_until_final_response(path, body, key)
        if response is None:
            self.log.unanswered += 1
        elif response.status_code == 422 and response.json()["code"] == "amount_exceeds_refundable":
            self.log.too_much += 1
        elif response.status_code != 201:
            caller.note_problem(f"refund {key}", response)
        else:
            self.log.accepted[UUID(response.json()["id"])] = key
            if random.Random(key).random() < REPEATED_SHARE:
                again = caller.post_until_final_response(path, body, key)
                if again is not None and again.content != response.content:
                    caller.note_problem(f"refund {key} again, after {response.text[:300]}", again)
                self.log.replayed += again is not None
