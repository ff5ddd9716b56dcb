"""The adapter of the sandbox acquirer (`gateway.sandbox`), over HTTP.

What an answer means for the money:

- Nothing was sent (refused, no such host, connect timeout): `Unavailable`.
- 503 and 429 to a charge or a refund: the acquirer promises that it did not process it: `Unavailable`.
- 200 and 201 with exactly the charge or refund that was asked for: `Approved` or `Declined`.
- 422 to a refund: the acquirer gives nothing back under this key, now or later: `Declined`.
- Everything else is `Unknown`, and the acquirer is asked by key what it knows: no answer in time, a connection lost
  after sending, another 5xx, a redirect, an answer that cannot be read or that names another key, amount or currency.
- So is every other 4xx. A request that the acquirer refuses (400, 401, 404, 409 ...) is a defect on our side and no
  decline by the customer's bank, so it must not end the payment as `failed`; and it says nothing about the attempts
  before it, so it must not count as "not charged" either. The query by key tells.

To a query, only the acquirer's own "unknown_charge" or "unknown_refund" means that another try is safe. A 404 of
anything else on the way, a refused connection or a 503 leaves the outcome `Unknown`.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import quote

import requests
from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError

from gateway import USER_AGENT
from gateway.outcomes import Approved, Charge, Declined, Instruction, Outcome, Refund, Unavailable, Unknown
from gateway.providers import poison
from gateway.providers.bounded_http import BoundedAdapter
from gateway.providers.simulated import SANDBOX_TOKENS

TOKENS = SANDBOX_TOKENS | {
    "tok_late_2",
    "tok_late_15",
    "tok_error_after_charge",
    "tok_garbage",
    "tok_wrong_amount",
    "tok_hang",
    "tok_hang_charged",
}
"""The payment methods that the acquirer knows (gateway.sandbox.behaviour)."""

CONNECT_SHARE = 0.2
"""Of the whole time that a call may take; for each address of the host, of which IPv4 and IPv6 make two."""
ANSWER_SHARE = 0.6
ANSWER_MAX_BYTES = 64 * 1024
IDLE_MAX_SECONDS = 60
"""A connection that was idle for longer is not used again: the acquirer might be closing it at this moment, and a
request lost in that way is in doubt for nothing."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
_NOT_DONE = {"charge": "not_charged", "refund": "not_refunded"}
_NOT_PROCESSED = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})


class _ChargeAnswer(BaseModel):
    """A charge as the acquirer describes it; further fields do not matter here."""

    model_config = ConfigDict(strict=True)

    id: Annotated[str, Field(min_length=1, max_length=255)]
    idempotency_key: str
    status: Literal["approved", "declined"]
    amount: int
    currency: str
    decline_code: Annotated[str, Field(max_length=64)] | None = None


class _RefundAnswer(BaseModel):
    """A refund as the acquirer describes it."""

    model_config = ConfigDict(strict=True)

    id: Annotated[str, Field(min_length=1, max_length=255)]
    idempotency_key: str
    charge_id: str
    status: Literal["succeeded"]
    amount: int
    currency: str


class _Error(BaseModel):
    code: Annotated[str, Field(max_length=64)]


class _ErrorAnswer(BaseModel):
    error: _Error


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


@dataclass(slots=True)
class _Connection:
    """One thread's session, which keeps its connection between calls. A forked process makes its own."""

    session: requests.Session
    process: int = field(default_factory=os.getpid)
    used_at: float = field(default_factory=time.monotonic)


class Sandbox:
    """The acquirer at `url`; a call takes at most `timeout_seconds` once the host's name is resolved."""

    name = "sandbox"

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url = url
        self._timeout = (CONNECT_SHARE * timeout_seconds, ANSWER_SHARE * timeout_seconds)
        self._local = threading.local()

    def supports(self, currency: str) -> bool:
        """Every currency."""
        return bool(currency)

    def accepts(self, payment_method: str) -> bool:
        """See `gateway.providers.base.Provider`."""
        return payment_method in TOKENS or poison.is_poison(payment_method)

    def charge(self, charge: Charge) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        poison.take(charge.payment_method)
        body = {
            "idempotency_key": charge.idempotency_key,
            "amount": charge.amount,
            "currency": charge.currency,
            "payment_method": charge.payment_method,
        }
        return self._send("/charges", body, lambda answer: _charged(charge, answer))

    def status(self, charge: Charge) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        return self._query("charge", charge, lambda answer: _charged(charge, answer))

    def refund(self, refund: Refund) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        body = {
            "idempotency_key": refund.idempotency_key,
            "charge_id": refund.charge_reference,
            "amount": refund.amount,
        }
        return self._send("/refunds", body, lambda answer: _refunded(refund, answer), _refused)

    def refund_status(self, refund: Refund) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        return self._query("refund", refund, lambda answer: _refunded(refund, answer))

    def _send(
        self,
        path: str,
        body: dict[str, object],
        read: Callable[[_Answer], Outcome],
        refused: Callable[[_Answer], Outcome | None] = lambda _answer: None,
    ) -> Outcome:
        """Send an instruction; `read` tells what a 200 or 201 says, `refused` what any other 4xx does."""
        answer = self._call("POST", path, body)
        if isinstance(answer, Unavailable | Unknown):
            return answer
        if answer.status in _NOT_PROCESSED:
            return Unavailable(f"http_{answer.status}", f"The acquirer answered {answer.status}: not processed.")
        if answer.status in {HTTPStatus.OK, HTTPStatus.CREATED}:
            return read(answer)
        refusal = refused(answer)
        if refusal is not None:
            return refusal
        if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("the acquirer refused {} {}: {}", path, body["idempotency_key"], answer)
        return Unknown(f"http_{answer.status}", f"The acquirer answered {answer.status}.")

    def _query(self, kind: str, asked: Instruction, read: Callable[[_Answer], Outcome]) -> Outcome:
        """Ask by key what became of a charge or a refund."""
        answer = self._call("GET", f"/{kind}s/{quote(asked.idempotency_key, safe='')}")
        if isinstance(answer, Unavailable):
            return Unknown(answer.code, f"The status query failed. {answer.message}")
        if isinstance(answer, Unknown):
            return answer
        if answer.status == HTTPStatus.OK:
            return read(answer)
        if answer.status == HTTPStatus.ACCEPTED:
            return Unknown("in_progress", f"The acquirer is still processing the {kind}.")
        if answer.status == HTTPStatus.NOT_FOUND and _error_code(answer) == f"unknown_{kind}":
            return Unavailable(_NOT_DONE[kind], f"The acquirer has no such {kind}.")
        return Unknown(f"http_{answer.status}", f"The acquirer answered the status query with {answer.status}.")

    def _call(self, method: str, path: str, body: object = None) -> _Answer | Unavailable | Unknown:
        """One request and its whole answer, or why there is none."""
        session = self._session()
        try:
            with session.request(
                method, self._url + path, json=body, timeout=self._timeout, allow_redirects=False, stream=True
            ) as response:
                content = response.raw.read(ANSWER_MAX_BYTES + 1, decode_content=False)
        except requests.ConnectTimeout:
            return Unavailable("connect_timeout", "The acquirer did not take the connection in time.")
        except (requests.Timeout, ReadTimeoutError):
            return Unknown("provider_timeout", "The acquirer did not answer in time.")
        except (requests.RequestException, HTTPError, OSError) as exc:
            if _was_refused(exc):
                return Unavailable("connection_refused", "The acquirer could not be reached.")
            return Unknown("connection_lost", f"The answer was lost ({type(exc).__name__}).")
        if len(content) > ANSWER_MAX_BYTES:
            return Unknown("invalid_answer", f"The answer is larger than {ANSWER_MAX_BYTES} bytes.")
        return _Answer(response.status_code, content)

    def _session(self) -> requests.Session:
        """This thread's session: `requests` does not promise that threads can share one."""
        now = time.monotonic()
        known: _Connection | None = getattr(self._local, "connection", None)
        if known is not None and known.process == os.getpid():
            if now - known.used_at > IDLE_MAX_SECONDS:
                known.session.close()
            known.used_at = now
            return known.session
        session = requests.Session()
        session.trust_env = False
        session.headers.clear()
        session.headers.update(_HEADERS)
        adapter: HTTPAdapter = BoundedAdapter(pool_connections=1, pool_maxsize=1, max_retries=0)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        self._local.connection = _Connection(session)
        return session


def _was_refused(exc: Exception) -> bool:
    """Whether no connection was made at all, so that nothing can have been sent."""
    reason = getattr(exc.args[0] if exc.args else None, "reason", None)
    return isinstance(exc, requests.ConnectionError) and isinstance(reason, NewConnectionError)


def _charged(charge: Charge, answer: _Answer) -> Outcome:
    """What an answer that describes a charge says about the one that was asked for."""
    try:
        found = _ChargeAnswer.model_validate_json(answer.body)
    except ValidationError:
        return Unknown("invalid_answer", "The answer does not describe a charge.")
    asked = (charge.idempotency_key, charge.amount, charge.currency)
    told = (found.idempotency_key, found.amount, found.currency)
    if asked != told:
        logger.error("the acquirer was asked to charge {} and says that it charged {} ({})", asked, told, found.id)
        return Unknown("answer_mismatch", f"Asked for {asked[1]} {asked[2]}; the answer says {told[1]} {told[2]}.")
    if found.status == "approved":
        return Approved(found.id)
    return Declined(found.decline_code or "declined", "The acquirer declined the payment.")


def _refunded(refund: Refund, answer: _Answer) -> Outcome:
    """What an answer that describes a refund says about the one that was asked for."""
    try:
        found = _RefundAnswer.model_validate_json(answer.body)
    except ValidationError:
        return Unknown("invalid_answer", "The answer does not describe a refund.")
    asked = (refund.idempotency_key, refund.charge_reference, refund.amount, refund.currency)
    told = (found.idempotency_key, found.charge_id, found.amount, found.currency)
    if asked != told:
        logger.error("the acquirer was asked to refund {} and says that it refunded {} ({})", asked, told, found.id)
        return Unknown("answer_mismatch", f"Asked for {asked[2]} {asked[3]}; the answer says {told[2]} {told[3]}.")
    return Approved(found.id)


def _refused(answer: _Answer) -> Outcome | None:
    """The acquirer's final no to a refund, if this is one."""
    code = _error_code(answer)
    if answer.status != HTTPStatus.UNPROCESSABLE_ENTITY or code is None:
        return None
    return Declined(code, "The acquirer refused to give the money back.")


def _error_code(answer: _Answer) -> str | None:
    try:
        return _ErrorAnswer.model_validate_json(answer.body).error.code
    except ValidationError:
        return None
