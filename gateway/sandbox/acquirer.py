"""The calls of the acquirer: their processing, and faults before and after it."""

import asyncio
import csv
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.sandbox.behaviour import PAYMENT_METHODS, REFUNDS, UNKNOWN_PAYMENT_METHOD, Behaviour, Control, Fault
from gateway.sandbox.store import Charge, Refund, Store, as_json, rfc3339
from gateway.sandbox.wire import (
    Drop,
    Hang,
    Raw,
    Rejected,
    Reply,
    Request,
    Response,
    Stream,
    error_reply,
    json_reply,
    object_of,
)

AMOUNT_MAX = 999_999_999_999
RESOURCES = frozenset({"charges", "refunds", "statement", "health", "control"})
STATEMENT_COLUMNS = ("charge_id", "idempotency_key", "type", "amount", "fee", "currency", "time")
NOT_HTTP = b"\x00\xff\x13 this is not HTTP \r\n\r\n"
NOT_JSON = b'{"id": "ch_\xff\xfe'
_END_OF_TIME = "9999"

PrintableAscii = Annotated[str, Field(pattern=r"^[ -~]{1,255}$")]
Amount = Annotated[int, Field(gt=0, le=AMOUNT_MAX)]
ModelT = TypeVar("ModelT", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class ChargeRequest(_Body):
    """`POST /charges`."""

    idempotency_key: PrintableAscii
    amount: Amount
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    payment_method: PrintableAscii


class RefundRequest(_Body):
    """`POST /refunds`."""

    idempotency_key: PrintableAscii
    charge_id: PrintableAscii
    amount: Amount


@dataclass(frozen=True, slots=True)
class _Plan:
    """The fault and the delays of one call."""

    fault: Fault
    late_seconds: float = 0
    processing_seconds: float = 0
    as_http: bool = True


class Acquirer:
    """Processes calls. `on_control` is called when the mode changes."""

    def __init__(self, store: Store, latency_ms: int, on_control: Callable[[Control], None]) -> None:
        self._store = store
        self._default_latency_ms = latency_ms
        self._on_control = on_control
        self._in_progress: Counter[str] = Counter()
        """The number of calls in progress by charge or refund."""
        self.control = Control(latency_ms=latency_ms)
        self._random = random.Random(self.control.seed)  # noqa: S311  # repeatable faults, not secrets

    async def respond(self, request: Request) -> Response:
        """Process a request.

        Raises:
            Rejected: the request is malformed or its parameters are invalid.
        """
        match request.method, *request.path:
            case "POST", "charges":
                return await self._charge(_parse(ChargeRequest, request.body))
            case "POST", "refunds":
                return await self._refund(_parse(RefundRequest, request.body))
            case "GET", "charges", key:
                return await self._find(f"charge {key}", lambda: self._store.find_charge(key))
            case "GET", "refunds", key:
                return await self._find(f"refund {key}", lambda: self._store.find_refund(key))
            case "PUT", "control":
                return self._set_control(_parse(Control, request.body))
            case "GET", page:
                return self._page(page, request)
        if request.path[0] in RESOURCES:
            raise Rejected(405, "method_not_allowed", f"{request.method} is not allowed here.")
        raise Rejected(404, "not_found", "The resource does not exist.")

    def _page(self, name: str, request: Request) -> Response:
        """Return a page for tests and operators. Faults do not apply to it."""
        match name:
            case "charges":
                return _json_lines(self._store.all_charges(_sequence(request)))
            case "refunds":
                return _json_lines(self._store.all_refunds(_sequence(request)))
            case "statement":
                start, end = _time_parameter(request, "from", ""), _time_parameter(request, "to", _END_OF_TIME)
                return Stream(_csv(self._store.statement(start, end)), "text/csv; charset=utf-8")
            case "health":
                return json_reply(200, {"status": "ok"})
            case "control":
                return json_reply(200, self.control.model_dump())
        raise Rejected(404, "not_found", "The resource does not exist.")

    def _set_control(self, control: Control) -> Reply:
        if control.latency_ms is None:
            control = control.model_copy(update={"latency_ms": self._default_latency_ms})
        self.control = control
        self._random = random.Random(control.seed)  # noqa: S311  # repeatable faults, not secrets
        self._on_control(control)
        return json_reply(200, control.model_dump())

    async def _charge(self, body: ChargeRequest) -> Response:
        behaviour = PAYMENT_METHODS.get(body.payment_method, UNKNOWN_PAYMENT_METHOD)

        def work() -> tuple[Charge, bool]:
            return self._store.charge(
                body.idempotency_key, body.amount, body.currency, body.payment_method, behaviour.decline_code
            )

        return await self._process(f"charge {body.idempotency_key}", behaviour, work)

    async def _refund(self, body: RefundRequest) -> Response:
        behaviour = REFUNDS.get(self._store.payment_method_of(body.charge_id) or "", Behaviour())

        def work() -> tuple[Refund, bool]:
            return self._store.refund(body.idempotency_key, body.charge_id, body.amount, behaviour.decline_code)

        return await self._process(f"refund {body.idempotency_key}", behaviour, work)

    async def _process(
        self, subject: str, behaviour: Behaviour, work: Callable[[], tuple[Charge | Refund, bool]]
    ) -> Response:
        """Do `work` on `subject` with the faults before and after it."""
        control = self.control
        self._in_progress[subject] += 1
        hangs = False
        try:
            await _pause((control.latency_ms or 0) / 1000)
            plan = await self._plan(subject, behaviour)
            if plan.fault is Fault.HANG:
                hangs = True
                return Hang(lambda: self._finished(subject))
            if plan.fault is Fault.DROP_BEFORE:
                return Drop()
            if plan.fault is Fault.ERROR_BEFORE:
                return error_reply(503, "unavailable", "The request was not processed. Try again.")
            await _pause(plan.processing_seconds)
            entry, created = await self._store.durably(work)
        finally:
            if not hangs:
                self._finished(subject)
        return await _after_processing(json_reply(201 if created else 200, as_json(entry)), entry, plan)

    def _finished(self, subject: str) -> None:
        self._in_progress[subject] -= 1
        if not self._in_progress[subject]:
            del self._in_progress[subject]

    async def _plan(self, subject: str, behaviour: Behaviour) -> _Plan:
        """Return the fault of the mode if it hits this call, else that of the payment method."""
        plan = self._drawn_fault()
        if plan is not None:
            return plan
        if behaviour.fault is not Fault.NONE:
            calls = await self._store.durably(lambda: self._store.count_faulty_call(subject))
            if calls <= behaviour.faulty_calls:
                return _Plan(behaviour.fault, behaviour.late_seconds)
        return _Plan(Fault.NONE, processing_seconds=behaviour.processing_seconds)

    def _drawn_fault(self) -> _Plan | None:
        fault = self.control.fault
        if fault is Fault.NONE or self._random.random() >= self.control.probability:
            return None
        as_http = fault is not Fault.GARBAGE or self._random.random() < 0.5
        return _Plan(fault, self.control.late_ms / 1000, as_http=as_http)

    async def _find(self, subject: str, find: Callable[[], Charge | Refund | None]) -> Response:
        control = self.control
        await _pause((control.latency_ms or 0) / 1000)
        plan = (self._drawn_fault() if control.calls == "all" else None) or _Plan(Fault.NONE)
        if plan.fault is Fault.HANG:
            return Hang()
        if plan.fault is Fault.DROP_BEFORE:
            return Drop()
        if plan.fault is Fault.ERROR_BEFORE:
            return error_reply(503, "unavailable", "The request was not processed. Try again.")
        entry = await self._store.durably(find)
        if entry is not None:
            reply = json_reply(200, as_json(entry))
        elif subject in self._in_progress:
            reply = json_reply(202, {"status": "processing"})
        else:
            kind = subject.partition(" ")[0]
            reply = error_reply(404, f"unknown_{kind}", f"There is no {kind} with this idempotency key.")
        return await _after_processing(reply, entry, plan)


async def _after_processing(reply: Reply, entry: Charge | Refund | None, plan: _Plan) -> Response:
    """Return the response after the fault of the call, if it has one."""
    match plan.fault:
        case Fault.SLOW:
            await _pause(plan.late_seconds)
        case Fault.DROP_AFTER:
            return Drop()
        case Fault.ERROR_AFTER:
            return error_reply(500, "internal_error", "Internal error.")
        case Fault.GARBAGE:
            return Reply(reply.status, NOT_JSON) if plan.as_http else Raw(NOT_HTTP)
        case Fault.HANG_AFTER:
            return Hang()
        case Fault.WRONG_AMOUNT if entry is not None:
            return json_reply(reply.status, as_json(entry) | {"amount": entry.amount + 1})
    return reply


async def _pause(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)


def _parse(model: type[ModelT], body: bytes) -> ModelT:
    value = object_of(body)
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Rejected(400, "invalid_request", f"{where}: {first['msg']}") from None


def _sequence(request: Request) -> int:
    after = request.query.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise Rejected(400, "invalid_request", "after: must be a sequence number")
    return int(after)


def _time_parameter(request: Request, name: str, default: str) -> str:
    """Return the RFC 3339 time of a query parameter in the form that the store compares."""
    text = request.query.get(name)
    if text is None:
        return default
    refusal = Rejected(400, "invalid_request", f"{name}: must be an RFC 3339 time with a zone")
    try:
        parsed = datetime.fromisoformat(text)
        in_utc = rfc3339(parsed.astimezone(UTC))
    except (ValueError, OverflowError):
        raise refusal from None
    if parsed.tzinfo is None:
        raise refusal
    return in_utc


def _json_lines(pages: Iterable[Sequence[Charge | Refund]]) -> Stream:
    chunks = ("".join(json.dumps(as_json(entry)) + "\n" for entry in page).encode() for page in pages)
    return Stream(chunks, "application/x-ndjson")


def _csv(pages: Iterable[Sequence[tuple[object, ...]]]) -> Iterator[bytes]:
    yield (",".join(STATEMENT_COLUMNS) + "\r\n").encode()
    for page in pages:
        text = io.StringIO()
        csv.writer(text).writerows(page)
        yield text.getvalue().encode()
