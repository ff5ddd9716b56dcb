"""Demo payments through the public API, shown until they reach a final status."""

import time
import uuid
from dataclasses import dataclass

import requests

from devstack.servers import accounts
from devstack.servers.accounts import Merchant
from devstack.terminal import DevstackError, print_line

_PAYMENTS = (
    ("tok_approve", 12550, "USD", "approved"),
    ("tok_decline_insufficient_funds", 990, "EUR", "declined"),
    ("tok_error_once", 4800, "CHF", "retried"),
    ("tok_error_always", 700, "GBP", "dead-lettered"),
)
_FINAL = frozenset({"completed", "failed", "dead_lettered", "canceled"})
_LIMIT_SECONDS = 90
_FAST_POLL_SECONDS, _FAST_POLL_LIMIT_SECONDS, _SLOW_POLL_SECONDS = 0.1, 3.0, 1.0
_REQUEST_LIMIT_SECONDS = 5


@dataclass
class _Payment:
    """A demo payment, with the status and attempts that were last shown."""

    id: str
    label: str
    shown: tuple[str, int] = ("", 0)
    final: bool = False


class Demo:
    """Sends demo payments; ``step`` shows their changes without waiting."""

    def __init__(self, api_url: str, merchant: Merchant) -> None:
        token = accounts.token(api_url, merchant)
        if token is None:
            raise DevstackError("the demo merchant cannot get an access token")
        self._url = f"{api_url}/v1/transactions"
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"
        self._next = 0.0
        self._started = time.monotonic()
        print_line("\ndemo payments through the public API:")
        self._payments = [self._post(*payment) for payment in _PAYMENTS]

    def _post(self, payment_method: str, amount: int, currency: str, outcome: str) -> _Payment:
        response = self._session.post(
            self._url,
            json={
                "amount": amount,
                "currency": currency,
                "payment_method": payment_method,
                "reference": f"demo-{outcome}",
            },
            headers={"Idempotency-Key": str(uuid.uuid4())},
            timeout=_REQUEST_LIMIT_SECONDS,
        )
        if response.status_code != requests.codes.created:
            raise DevstackError(f"a demo payment was refused: {response.status_code} {response.text[:500]}")
        label = f"{amount / 100:8.2f} {currency}  {payment_method:31}"
        payment = _Payment(response.json()["id"], label)
        self._show(payment, response.json())
        return payment

    @property
    def finished(self) -> bool:
        """Return whether every payment is final, or the time limit is over."""
        return all(payment.final for payment in self._payments) or self.age > _LIMIT_SECONDS

    @property
    def age(self) -> float:
        """Return the seconds since the first payment was sent."""
        return time.monotonic() - self._started

    def step(self) -> None:
        """Query each payment that is not final: first often, then once a second."""
        now = self.age
        if now < self._next:
            return
        self._next = now + (_FAST_POLL_SECONDS if now < _FAST_POLL_LIMIT_SECONDS else _SLOW_POLL_SECONDS)
        for payment in self._payments:
            if not payment.final:
                try:
                    response = self._session.get(f"{self._url}/{payment.id}", timeout=_REQUEST_LIMIT_SECONDS)
                    response.raise_for_status()
                except requests.RequestException:
                    continue  # the API may be restarting; the next step repeats the query
                self._show(payment, response.json())

    def _show(self, payment: _Payment, found: dict[str, object]) -> None:
        status, attempts = str(found["status"]), int(str(found["attempts"]))
        if (status, attempts) == payment.shown:
            return
        payment.shown, payment.final = (status, attempts), status in _FINAL
        failure = found.get("failure")
        reason = f": {failure['code']}" if isinstance(failure, dict) else ""
        tried = f", attempt {attempts}" if attempts else ""
        print_line(f"  demo {self.age:5.1f} s  {payment.label}  {status}{tried}{reason}")
