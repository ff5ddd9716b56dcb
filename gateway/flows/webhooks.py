"""Deliver events to merchants' receivers: claim (commit), call, record (commit), in sets, continuously.

One event loop per process runs all calls. A receiver that hangs occupies a socket but no thread, so dead, slow or
hostile receivers do not delay the deliveries of others. The limits are:

- Each endpoint has a window of calls that may be in progress: one at first, one more with every success, and one again
  after a failure. The database also stores which endpoints are failing.
- All failing endpoints together may use only a part of the calls, and endpoints with calls in progress leave some calls
  to those without.
- The data that one call may receive is bounded (security.public_http). An endpoint whose response exceeds the bound is
  paused, so that it costs the event loop little regardless of its number of deliveries.
"""

import asyncio
import resource
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from uuid import UUID

import aiohttp
from loguru import logger

from gateway import db
from gateway.domain.webhooks import deliveries as webhook_deliveries
from gateway.domain.webhooks import endpoints as webhook_endpoints
from gateway.domain.webhooks.deliveries import DeliveryClaim
from gateway.flows import webhook_calls
from gateway.flows.webhook_calls import CALL_SECONDS, RESPONSE_SECONDS, FinishedCall
from gateway.reasons import reason_of
from gateway.security import encryption
from gateway.states import DeliveryStatus
from gateway.telemetry import WEBHOOK_DELIVERIES, WEBHOOK_SECONDS

WINDOW_MAX = 64
CALLS_MAX = 1_000
FILES_MAX = 4_096
"""The limit of open files that this process requests: a call needs a socket, and the usual limit is 1024."""
FAILING_CALLS_MAX = 250
RESERVED = 250
"""Calls that are reserved for endpoints without calls in progress."""
ENDPOINTS_AT_ONCE = 200
PAUSE_SECONDS = 60.0
"""The pause of an endpoint whose response exceeded the bound of received data."""
COLLECT_SECONDS = 0.005
DATABASE_PAUSE_SECONDS = 1.0
CLOSE_SECONDS = CALL_SECONDS + RESPONSE_SECONDS + 4

_COUNTED_AS = {DeliveryStatus.PENDING.value: "failed"}
"""The label of deliveries that will be retried; the others are counted by their status."""


@dataclass(slots=True)
class _Endpoint:
    """The state of an endpoint in this process while it has deliveries to make."""

    due: bool = True
    """Whether there may be deliveries to claim."""
    in_progress: int = 0
    window: int = 1
    failing: bool | None = None
    """None: nothing has been claimed yet, so only the database knows."""
    paused: bool = False

    def update(self, call: FinishedCall) -> None:
        """Adapt the window to the result of a call."""
        self.failing = call.result.error is not None
        self.window = 1 if self.failing else min(self.window + 1, WINDOW_MAX)


class DeliveryLoop:
    """Makes all deliveries of this process, in a separate thread."""

    def __init__(self) -> None:
        _allow_open_files()
        self._endpoints: dict[UUID, _Endpoint] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._finished: list[FinishedCall] = []
        self._database = ThreadPoolExecutor(1, thread_name_prefix="webhooks-database")
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="webhooks", daemon=True)
        self._thread.start()

    def wake(self, ids: Sequence[UUID]) -> None:
        """Start the due deliveries of the endpoints `ids`; return immediately."""
        self._loop.call_soon_threadsafe(self._wake, ids)

    def close(self) -> None:
        """Claim no further deliveries, and wait for the calls in progress for at most `CLOSE_SECONDS`."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._close)
            self._thread.join(CLOSE_SECONDS)

    def _wake(self, ids: Sequence[UUID]) -> None:
        for id in ids:
            self._endpoints.setdefault(id, _Endpoint()).due = True
        self._changed.set()

    def _close(self) -> None:
        self._closing = True
        self._changed.set()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())
        self._database.shutdown(wait=False)

    async def _run(self) -> None:
        async with webhook_calls.session() as session:
            while not self._closing or self._calls or self._finished:
                await self._changed.wait()
                self._changed.clear()
                try:
                    await self._round(session)
                except Exception as exc:  # noqa: BLE001  # the loop must continue: the next round may succeed
                    expected = isinstance(exc, db.UNAVAILABLE)
                    logger.opt(exception=not expected).warning("webhooks wait: {}", reason_of(exc))
                    self._changed.set()
                    await asyncio.sleep(DATABASE_PAUSE_SECONDS)
                await asyncio.sleep(COLLECT_SECONDS)

    async def _round(self, session: aiohttp.ClientSession) -> None:
        await self._record()
        allowed = {} if self._closing else self._allowed()
        if not allowed:
            return
        for id in allowed:
            self._endpoints[id] = self._endpoints.pop(id)  # to the end: the others come first in the next round
            self._endpoints[id].due = False
        try:
            claims = await self._loop.run_in_executor(self._database, _claim, allowed)
        except BaseException:
            self._wake(list(allowed))
            raise
        taken = Counter(claim.endpoint_id for claim in claims)
        for claim in claims:
            endpoint = self._endpoints[claim.endpoint_id]
            endpoint.failing = claim.failing
            endpoint.due = endpoint.due or taken[claim.endpoint_id] >= allowed[claim.endpoint_id][claim.failing]
            endpoint.in_progress += 1
            call = self._loop.create_task(self._deliver(session, claim))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        self._forget(allowed)
        if self._allowed():
            self._changed.set()

    def _allowed(self) -> dict[UUID, tuple[int, int]]:
        """Return the number of deliveries of each endpoint that may be claimed now, and the number if it is failing."""
        free = CALLS_MAX
        free_failing = FAILING_CALLS_MAX
        for endpoint in self._endpoints.values():
            free -= endpoint.in_progress
            free_failing -= endpoint.in_progress if endpoint.failing else 0
        allowed: dict[UUID, tuple[int, int]] = {}
        for id, endpoint in self._endpoints.items():
            if not endpoint.due or endpoint.paused or len(allowed) == ENDPOINTS_AT_ONCE:
                continue
            if_failing = 1 if endpoint.in_progress == 0 and free_failing > 0 else 0
            capacity = free if endpoint.in_progress == 0 else free - RESERVED
            allowed_now = if_failing if endpoint.failing else min(endpoint.window - endpoint.in_progress, capacity)
            if allowed_now > 0:
                allowed[id] = (allowed_now, if_failing)
                free -= allowed_now
                free_failing -= 0 if endpoint.failing is False else if_failing
        return allowed

    async def _record(self) -> None:
        finished, self._finished = self._finished, []
        if not finished:
            return
        try:
            await self._loop.run_in_executor(self._database, _record, finished)
        except BaseException:
            self._finished = finished + self._finished
            raise
        for call in finished:
            endpoint_id = call.result.claim.endpoint_id
            endpoint = self._endpoints[endpoint_id]
            endpoint.in_progress -= 1
            endpoint.update(call)
            if call.is_excessive and not endpoint.paused:
                endpoint.paused = True
                self._loop.call_later(PAUSE_SECONDS, self._resume, endpoint_id)
        self._forget({call.result.claim.endpoint_id for call in finished})

    def _resume(self, id: UUID) -> None:
        self._endpoints[id].paused = False
        self._forget({id})
        self._changed.set()

    def _forget(self, ids: Sequence[UUID] | set[UUID] | dict[UUID, tuple[int, int]]) -> None:
        for id in ids:
            endpoint = self._endpoints.get(id)
            if endpoint is not None and not (endpoint.in_progress or endpoint.due or endpoint.paused):
                del self._endpoints[id]

    async def _deliver(self, session: aiohttp.ClientSession, claim: DeliveryClaim) -> None:
        started = time.perf_counter()
        call = await webhook_calls.call(session, claim)
        WEBHOOK_SECONDS.observe(time.perf_counter() - started)
        self._finished.append(call)
        self._changed.set()


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES_MAX:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES_MAX, hard), hard))


def _claim(allowed: dict[UUID, tuple[int, int]]) -> list[DeliveryClaim]:
    with db.autocommit() as connection:
        return webhook_deliveries.claim(connection, allowed)


def _record(finished: Sequence[FinishedCall]) -> None:
    results = [call.result for call in finished]
    with db.autocommit() as connection:
        numbers = webhook_deliveries.record(connection, results)
    for status, number in numbers.items():
        WEBHOOK_DELIVERIES.labels(_COUNTED_AS.get(status, status)).inc(number)
    for result in results:
        if result.outcome in {DeliveryStatus.EXHAUSTED, DeliveryStatus.CANCELED}:
            logger.warning("delivery {} is {}: {}", result.claim.id, result.outcome, result.error)


@cache
def _delivery_loop() -> DeliveryLoop:
    encryption.make_ready()
    return DeliveryLoop()


def wake(ids: Sequence[UUID]) -> None:
    """Start the due deliveries of the endpoints `ids` in the background. After a crash they become due again."""
    _delivery_loop().wake(ids)


def close() -> None:
    """Finish the calls in progress before this process ends."""
    if _delivery_loop.cache_info().currsize:
        _delivery_loop().close()
        _delivery_loop.cache_clear()


def enqueue_due() -> int:
    """Enqueue the endpoints with due deliveries; return their number."""
    with db.autocommit() as connection:
        webhook_endpoints.cancel_orphans(connection)
        return webhook_deliveries.enqueue_due(connection)
