"""Sending events to merchants: claim (commit), call the receivers, record (commit), in sets and without end.

One event loop per process has all calls in hand. A receiver that hangs costs a socket and nobody's thread, so however
many of them are dead, slow or hostile, the others' deliveries go on. What bounds them:

- Each endpoint has a window of calls that it may have in hand: one at first, one more with every success, and one again
  after a failure. Which endpoints are failing is in the database too.
- Failing endpoints together may have a part of all calls only, and endpoints that have calls in hand leave some for
  those that have none.
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
from gateway.flows.webhook_calls import ANSWER_SECONDS, CALL_SECONDS, Attempt
from gateway.reasons import reason_of
from gateway.security import encryption
from gateway.states import DeliveryStatus
from gateway.telemetry import WEBHOOK_DELIVERIES, WEBHOOK_SECONDS

WINDOW_MAX = 64
IN_HAND_MAX = 1_000
FILES_MAX = 4_096
"""Files that this process may open, if the system lets it: a call is a socket, and the usual limit is 1024."""
FAILING_IN_HAND_MAX = 250
RESERVED = 250
"""Calls that are left for endpoints with none in hand."""
ENDPOINTS_AT_ONCE = 200
PAUSE_SECONDS = 60.0
"""The pause of an endpoint whose response exceeded the bound of received data."""
GATHER_SECONDS = 0.005
DATABASE_PAUSE_SECONDS = 1.0
CLOSE_SECONDS = CALL_SECONDS + ANSWER_SECONDS + 4

_COUNTED_AS = {DeliveryStatus.PENDING.value: "failed"}
"""The label of a delivery that is to be tried again; the others are counted by their status."""


@dataclass(slots=True)
class _Endpoint:
    """What this process knows of an endpoint while it has something to do for it."""

    due: bool = True
    """Whether there may be deliveries to claim."""
    in_hand: int = 0
    window: int = 1
    failing: bool | None = None
    """None: nothing was claimed yet, so the database knows."""
    paused: bool = False

    def note(self, attempt: Attempt) -> None:
        """Learn from a call that ended."""
        self.failing = attempt.result.error is not None
        self.window = 1 if self.failing else min(self.window + 1, WINDOW_MAX)


class Courier:
    """All deliveries that this process has in hand, in a thread of their own."""

    def __init__(self) -> None:
        _allow_open_files()
        self._endpoints: dict[UUID, _Endpoint] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._attempts: list[Attempt] = []
        self._database = ThreadPoolExecutor(1, thread_name_prefix="webhooks-database")
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="webhooks", daemon=True)
        self._thread.start()

    def wake(self, ids: Sequence[UUID]) -> None:
        """See to the due deliveries of the endpoints `ids`; returns at once."""
        self._loop.call_soon_threadsafe(self._wake, ids)

    def close(self) -> None:
        """Claim nothing more, and wait for the calls in hand, which takes `CLOSE_SECONDS` at most."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._close)
            self._thread.join(CLOSE_SECONDS)

    def _wake(self, ids: Sequence[UUID]) -> None:
        for id in ids:
            self._endpoints.setdefault(id, _Endpoint()).due = True
        self._news.set()

    def _close(self) -> None:
        self._closing = True
        self._news.set()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())
        self._database.shutdown(wait=False)

    async def _run(self) -> None:
        async with webhook_calls.session() as session:
            while not self._closing or self._calls or self._attempts:
                await self._news.wait()
                self._news.clear()
                try:
                    await self._round(session)
                except Exception as exc:  # noqa: BLE001  # whatever it is: the next round may do better, no round at all never
                    expected = isinstance(exc, db.UNAVAILABLE)
                    logger.opt(exception=not expected).warning("webhooks wait: {}", reason_of(exc))
                    self._news.set()
                    await asyncio.sleep(DATABASE_PAUSE_SECONDS)
                await asyncio.sleep(GATHER_SECONDS)

    async def _round(self, session: aiohttp.ClientSession) -> None:
        await self._record()
        wanted = {} if self._closing else self._wanted()
        if not wanted:
            return
        for id in wanted:
            self._endpoints[id] = self._endpoints.pop(id)  # to the end: the others are served first next time
            self._endpoints[id].due = False
        try:
            claims = await self._loop.run_in_executor(self._database, _claim, wanted)
        except BaseException:
            self._wake(list(wanted))
            raise
        taken = Counter(claim.endpoint_id for claim in claims)
        for claim in claims:
            endpoint = self._endpoints[claim.endpoint_id]
            endpoint.failing = claim.failing
            endpoint.due = endpoint.due or taken[claim.endpoint_id] >= wanted[claim.endpoint_id][claim.failing]
            endpoint.in_hand += 1
            call = self._loop.create_task(self._deliver(session, claim))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        self._forget(wanted)
        if self._wanted():
            self._news.set()

    def _wanted(self) -> dict[UUID, tuple[int, int]]:
        """How many deliveries of each endpoint may be claimed now, and how many if it is failing."""
        free = IN_HAND_MAX
        free_failing = FAILING_IN_HAND_MAX
        for endpoint in self._endpoints.values():
            free -= endpoint.in_hand
            free_failing -= endpoint.in_hand if endpoint.failing else 0
        wanted: dict[UUID, tuple[int, int]] = {}
        for id, endpoint in self._endpoints.items():
            if not endpoint.due or endpoint.paused or len(wanted) == ENDPOINTS_AT_ONCE:
                continue
            if_failing = 1 if endpoint.in_hand == 0 and free_failing > 0 else 0
            room = free if endpoint.in_hand == 0 else free - RESERVED
            most = if_failing if endpoint.failing else min(endpoint.window - endpoint.in_hand, room)
            if most > 0:
                wanted[id] = (most, if_failing)
                free -= most
                free_failing -= 0 if endpoint.failing is False else if_failing
        return wanted

    async def _record(self) -> None:
        attempts, self._attempts = self._attempts, []
        if not attempts:
            return
        try:
            await self._loop.run_in_executor(self._database, _record, attempts)
        except BaseException:
            self._attempts = attempts + self._attempts
            raise
        for attempt in attempts:
            endpoint_id = attempt.result.claim.endpoint_id
            endpoint = self._endpoints[endpoint_id]
            endpoint.in_hand -= 1
            endpoint.note(attempt)
            if attempt.is_excessive and not endpoint.paused:
                endpoint.paused = True
                self._loop.call_later(PAUSE_SECONDS, self._resume, endpoint_id)
        self._forget({attempt.result.claim.endpoint_id for attempt in attempts})

    def _resume(self, id: UUID) -> None:
        self._endpoints[id].paused = False
        self._forget({id})
        self._news.set()

    def _forget(self, ids: Sequence[UUID] | set[UUID] | dict[UUID, tuple[int, int]]) -> None:
        for id in ids:
            endpoint = self._endpoints.get(id)
            if endpoint is not None and not (endpoint.in_hand or endpoint.due or endpoint.paused):
                del self._endpoints[id]

    async def _deliver(self, session: aiohttp.ClientSession, claim: DeliveryClaim) -> None:
        started = time.perf_counter()
        attempt = await webhook_calls.call(session, claim)
        WEBHOOK_SECONDS.observe(time.perf_counter() - started)
        self._attempts.append(attempt)
        self._news.set()


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES_MAX:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES_MAX, hard), hard))


def _claim(wanted: dict[UUID, tuple[int, int]]) -> list[DeliveryClaim]:
    with db.autocommit() as connection:
        return webhook_deliveries.claim(connection, wanted)


def _record(attempts: Sequence[Attempt]) -> None:
    results = [attempt.result for attempt in attempts]
    with db.autocommit() as connection:
        numbers = webhook_deliveries.record(connection, results)
    for status, number in numbers.items():
        WEBHOOK_DELIVERIES.labels(_COUNTED_AS.get(status, status)).inc(number)
    for result in results:
        if result.outcome in {DeliveryStatus.EXHAUSTED, DeliveryStatus.CANCELED}:
            logger.warning("delivery {} is {}: {}", result.claim.id, result.outcome, result.error)


@cache
def _courier() -> Courier:
    encryption.make_ready()
    return Courier()


def wake(ids: Sequence[UUID]) -> None:
    """See to the due deliveries of the endpoints `ids`, in the background. A crash makes them due again later."""
    _courier().wake(ids)


def close() -> None:
    """Finish the calls in hand, as this process ends."""
    if _courier.cache_info().currsize:
        _courier().close()
        _courier.cache_clear()


def enqueue_due() -> int:
    """Have the endpoints with due deliveries enqueued; how many there are."""
    with db.autocommit() as connection:
        webhook_endpoints.cancel_orphans(connection)
        return webhook_deliveries.enqueue_due(connection)
