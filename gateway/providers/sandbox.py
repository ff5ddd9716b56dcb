"""The adapter of the sandbox acquirer (`gateway.sandbox`), over HTTP.

The outcome of a response:

- Nothing was sent (connection refused, unknown host, connect timeout): `Unavailable`.
- 503 or 429 for a charge or a refund: the acquirer guarantees that it was not processed: `Unavailable`.
- 200 or 201 with exactly the requested charge or refund: `Approved` or `Declined`.
- 422 for a refund: the acquirer will never refund under this key: `Declined`.
- Everything else is `Unknown`, and the acquirer is queried by key: no response in time, a connection lost after
  sending, another 5xx, a redirect, an unreadable response or one with another key, amount or currency.
- Every other 4xx is `Unknown` too. A request that the acquirer rejects (400, 401, 404, 409 ...) is a defect of the
  gateway and no decline by the customer's bank, so the payment must not become `failed`. It says nothing about earlier
  attempts either, so it must not count as "not charged".

For a query, only the acquirer's code "unknown_charge" or "unknown_refund" means that another attempt is safe. A 404
from an intermediary, a refused connection or a 503 leaves the outcome `Unknown`.
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
from gateway.providers.simulated import TEST_TOKENS

TOKENS = TEST_TOKENS | {
    "tok_late_2",
    "tok_late_15",
    "tok_error_after_charge",
    "tok_garbage",
    "tok_wrong_amount",
    "tok_hang",
    "tok_hang_charged",
}
"""The payment methods of the acquirer (gateway.sandbox.behaviour)."""

CONNECT_SHARE = 0.2
"""Share of the time limit of a call for connecting to one address; a host has up to two, IPv4 and IPv6."""
RESPONSE_SHARE = 0.6
RESPONSE_MAX_BYTES = 64 * 1024
IDLE_MAX_SECONDS = 60
"""A connection that was idle for longer is not used again: the acquirer may be closing it, and the outcome of a request
that is lost in this way would be unknown."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
_NOT_DONE = {"charge": "not_charged", "refund": "not_refunded"}
_NOT_PROCESSED = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})


class _ChargeBody(BaseModel):
    """A charge in a response. Other fields are ignored."""

    model_config = ConfigDict(strict=True)

    id: Annotated[str, Field(min_length=1, max_length=255)]
    idempotency_key: str
    status: Literal["approved", "declined"]
    amount: int
    currency: str
    decline_code: Annotated[str, Field(max_length=64)] | None = None


class _RefundBody(BaseModel):
    """A refund in a response."""

    model_config = ConfigDict(strict=True)

    id: Annotated[str, Field(min_length=1, max_length=255)]
    idempotency_key: str
    charge_id: str
    status: Literal["succeeded"]
    amount: int
    currency: str


class _Error(BaseModel):
    code: Annotated[str, Field(max_length=64)]


class _ErrorBody(BaseModel):
    error: _Error


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    body: bytes


@dataclass(slots=True)
class _Connection:
    """The session of one thread, which keeps its connection between calls. A forked process creates a new one."""

    session: requests.Session
    process: int = field(default_factory=os.getpid)
    used_at: float = field(default_factory=time.monotonic)


class SandboxProvider:
    """The acquirer at `url`. A call takes at most `timeout_seconds`, besides the resolution of the host name."""

    name = "sandbox"

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url = url
        self._timeout = (CONNECT_SHARE * timeout_seconds, RESPONSE_SHARE * timeout_seconds)
        self._local = threading.local()

    def supports(self, currency: str) -> bool:
        """Return True: it supports every currency."""
        return bool(currency)

    def accepts(self, payment_method: str) -> bool:
        """See `gateway.providers.base.Provider`."""
        return payment_method in TOKENS or poison.is_poison(payment_method)

    def charge(self, charge: Charge) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        poison.apply(charge.payment_method)
        body = {
            "idempotency_key": charge.idempotency_key,
            "amount": charge.amount,
            "currency": charge.currency,
            "payment_method": charge.payment_method,
        }
        return self._send("/charges", body, lambda response: _charged(charge, response))

    def status(self, charge: Charge) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        return self._query("charge", charge, lambda response: _charged(charge, response))

    def refund(self, refund: Refund) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        body = {
            "idempotency_key": refund.idempotency_key,
            "charge_id": refund.charge_reference,
            "amount": refund.amount,
        }
        return self._send("/refunds", body, lambda response: _refunded(refund, response), _refused)

    def refund_status(self, refund: Refund) -> Outcome:
        """See `gateway.providers.base.Provider`."""
        return self._query("refund", refund, lambda response: _refunded(refund, response))

    def _send(
        self,
        path: str,
        body: dict[str, object],
        read: Callable[[_Response], Outcome],
        refused: Callable[[_Response], Outcome | None] = lambda _response: None,
    ) -> Outcome:
        """Send an instruction. `read` interprets a 200 or 201, `refused` any other 4xx."""
        response = self._call("POST", path, body)
        if isinstance(response, Unavailable | Unknown):
            return response
        if response.status in _NOT_PROCESSED:
            return Unavailable(
                f"http_{response.status}", f"The acquirer responded with {response.status}: not processed."
            )
        if response.status in {HTTPStatus.OK, HTTPStatus.CREATED}:
            return read(response)
        refusal = refused(response)
        if refusal is not None:
            return refusal
        if response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("the acquirer rejected {} {}: {}", path, body["idempotency_key"], response)
        return Unknown(f"http_{response.status}", f"The acquirer responded with {response.status}.")

    def _query(self, kind: str, instruction: Instruction, read: Callable[[_Response], Outcome]) -> Outcome:
        """Query the outcome of a charge or a refund by its key."""
        response = self._call("GET", f"/{kind}s/{quote(instruction.idempotency_key, safe='')}")
        if isinstance(response, Unavailable):
            return Unknown(response.code, f"The status query failed. {response.message}")
        if isinstance(response, Unknown):
            return response
        if response.status == HTTPStatus.OK:
            return read(response)
        if response.status == HTTPStatus.ACCEPTED:
            return Unknown("in_progress", f"The acquirer is still processing the {kind}.")
        if response.status == HTTPStatus.NOT_FOUND and _error_code(response) == f"unknown_{kind}":
            return Unavailable(_NOT_DONE[kind], f"The acquirer has no such {kind}.")
        return Unknown(f"http_{response.status}", f"The acquirer responded to the status query with {response.status}.")

    def _call(self, method: str, path: str, body: object = None) -> _Response | Unavailable | Unknown:
        """Send one request and return its response, or the outcome if there is none."""
        session = self._session()
        try:
            with session.request(
                method, self._url + path, json=body, timeout=self._timeout, allow_redirects=False, stream=True
            ) as response:
                content = response.raw.read(RESPONSE_MAX_BYTES + 1, decode_content=False)
        except requests.ConnectTimeout:
            return Unavailable("connect_timeout", "The acquirer did not accept the connection in time.")
        except (requests.Timeout, ReadTimeoutError):
            return Unknown("provider_timeout", "The acquirer did not respond in time.")
        except (requests.RequestException, HTTPError, OSError) as exc:
            if _was_refused(exc):
                return Unavailable("connection_refused", "The acquirer could not be reached.")
            return Unknown("connection_lost", f"The response was lost ({type(exc).__name__}).")
        if len(content) > RESPONSE_MAX_BYTES:
            return Unknown("invalid_answer", f"The response is larger than {RESPONSE_MAX_BYTES} bytes.")
        return _Response(response.status_code, content)

    def _session(self) -> requests.Session:
        """Return the session of this thread: `requests` does not guarantee that threads can share one."""
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
    """Return whether no connection was established, so that nothing was sent."""
    reason = getattr(exc.args[0] if exc.args else None, "reason", None)
    return isinstance(exc, requests.ConnectionError) and isinstance(reason, NewConnectionError)


def _charged(charge: Charge, response: _Response) -> Outcome:
    """Interpret a response with a charge."""
    try:
        found = _ChargeBody.model_validate_json(response.body)
    except ValidationError:
        return Unknown("invalid_answer", "The response does not describe a charge.")
    requested = (charge.idempotency_key, charge.amount, charge.currency)
    received = (found.idempotency_key, found.amount, found.currency)
    if requested != received:
        logger.error(
            "the acquirer responded to the charge {} with another charge, {} ({})", requested, received, found.id
        )
        return Unknown(
            "answer_mismatch", f"Requested {requested[1]} {requested[2]}; the response has {received[1]} {received[2]}."
        )
    if found.status == "approved":
        return Approved(found.id)
    return Declined(found.decline_code or "declined", "The acquirer declined the payment.")


def _refunded(refund: Refund, response: _Response) -> Outcome:
    """Interpret a response with a refund."""
    try:
        found = _RefundBody.model_validate_json(response.body)
    except ValidationError:
        return Unknown("invalid_answer", "The response does not describe a refund.")
    requested = (refund.idempotency_key, refund.charge_reference, refund.amount, refund.currency)
    received = (found.idempotency_key, found.charge_id, found.amount, found.currency)
    if requested != received:
        logger.error(
            "the acquirer responded to the refund {} with another refund, {} ({})", requested, received, found.id
        )
        return Unknown(
            "answer_mismatch", f"Requested {requested[2]} {requested[3]}; the response has {received[2]} {received[3]}."
        )
    return Approved(found.id)


def _refused(response: _Response) -> Outcome | None:
    """Return the final refusal of a refund, or None if the response is none."""
    code = _error_code(response)
    if response.status != HTTPStatus.UNPROCESSABLE_ENTITY or code is None:
        return None
    return Declined(code, "The acquirer refused the refund.")


def _error_code(response: _Response) -> str | None:
    try:
        return _ErrorBody.model_validate_json(response.body).error.code
    except ValidationError:
        return None
