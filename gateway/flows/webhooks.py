"""Sending events to merchants: claim (commit), call the receivers, record (commit), in sets and without end.

One event loop per process has all calls in hand. A receiver that hangs costs a socket and nobody's thread, so however
many of them are dead, slow or hostile, the others' deliveries go on. What bounds them:

- Each endpoint has a window of calls that it may have in hand: one at first, one more with every success, and one again
  after a failure. Which endpoints are failing is in the database too.
- Failing endpoints together may have a part of all calls only, and endpoints that have calls in hand leave some for
  those that have none.
"""

import asyncio
import resource
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from uuid import UUID

import aiohttp
from loguru import logger
from yarl import URL

from gateway import db, outbound, signing, vault
from gateway.config import settings
from gateway.domain import webhook_deliveries, webhook_endpoints
from gateway.domain.ids import utc_now
from gateway.domain.webhook_deliveries import Claim, Result
from gateway.reasons import reason_of
from gateway.states import DeliveryStatus
from gateway.telemetry import WEBHOOK_DELIVERIES, WEBHOOK_SECONDS
from gateway.vault import UnreadableSecret

CALL_SECONDS = 15.0
"""The longest that a receiver may take, from the lookup of its name to its answer's status."""
ANSWER_SECONDS = 1.0
ANSWER_MAX_BYTES = 16_384
"""How long, and how much of an answer's body is read, so that the connection serves again. Nothing of it is kept."""
ERROR_MAX_LENGTH = 200
WINDOW_MAX = 64
IN_HAND_MAX = 1_000
FILES_MAX = 4_096
"""Files that this process may open, if the system lets it: a call is a socket, and the usual limit is 1024."""
FAILING_IN_HAND_MAX = 250
RESERVED = 250
"""Calls that are left for endpoints with none in hand."""
ENDPOINTS_AT_ONCE = 200
GATHER_SECONDS = 0.005
DATABASE_PAUSE_SECONDS = 1.0
CLOSE_SECONDS = CALL_SECONDS + ANSWER_SECONDS + 4
USER_AGENT = "payment-gateway-webhooks/1"

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

    def note(self, result: Result) -> None:
        """Learn from a call that ended."""
        self.failing = result.error is not None
        self.window = 1 if self.failing else min(self.window + 1, WINDOW_MAX)


class Courier:
    """All deliveries that this process has in hand, in a thread of their own."""

    def __init__(self) -> None:
        _allow_open_files()
        self._endpoints: dict[UUID, _Endpoint] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._results: list[Result] = []
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
        session = outbound.session(
            allow_loopback=settings().webhook_allow_loopback, user_agent=USER_AGENT, timeout_seconds=CALL_SECONDS
        )
        async with session:
            while not self._closing or self._calls or self._results:
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
            if not endpoint.due or len(wanted) == ENDPOINTS_AT_ONCE:
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
        results, self._results = self._results, []
        if not results:
            return
        try:
            await self._loop.run_in_executor(self._database, _record, results)
        except BaseException:
            self._results = results + self._results
            raise
        for result in results:
            endpoint = self._endpoints[result.claim.endpoint_id]
            endpoint.in_hand -= 1
            endpoint.note(result)
        self._forget({result.claim.endpoint_id for result in results})

    def _forget(self, ids: Sequence[UUID] | set[UUID] | dict[UUID, tuple[int, int]]) -> None:
        for id in ids:
            endpoint = self._endpoints.get(id)
            if endpoint is not None and endpoint.in_hand == 0 and not endpoint.due:
                del self._endpoints[id]

    async def _deliver(self, session: aiohttp.ClientSession, claim: Claim) -> None:
        started = time.perf_counter()
        result = await _call(session, claim)
        WEBHOOK_SECONDS.observe(time.perf_counter() - started)
        self._results.append(result)
        self._news.set()


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES_MAX:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES_MAX, hard), hard))


async def _call(session: aiohttp.ClientSession, claim: Claim) -> Result:
    """POST one event. The answer's status is what counts; of its body only so much is read as keeps the connection."""
    status = None
    try:
        now = int(utc_now().timestamp())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": str(claim.event_id),
            "webhook-timestamp": str(now),
            "webhook-signature": signing.sign(
                [vault.decrypt(secret) for secret in claim.secrets], str(claim.event_id), now, claim.body
            ),
        }
        url = URL(claim.url, encoded=True)
        async with session.post(url, data=claim.body, headers=headers, allow_redirects=False) as answer:
            status = answer.status
            with suppress(TimeoutError, aiohttp.ClientError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await answer.content.read(ANSWER_MAX_BYTES)
        error = None if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES else f"HTTP {status}"
    except TimeoutError:
        error = f"no answer within {CALL_SECONDS:g} s"
    except UnreadableSecret as exc:
        logger.error("the secret of endpoint {} cannot be read: {}", claim.endpoint_id, reason_of(exc))
        error = exc.title()
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        error = _cause(exc)
    except Exception as exc:  # noqa: BLE001  # whatever it is, this delivery failed, and the others go on
        logger.exception("delivery {} raised", claim.id)
        error = type(exc).__name__
    return Result(claim, status, error)


def _cause(exc: BaseException) -> str:
    """What went wrong, in the words of what was raised first: the libraries' own repeat the URL.

    The receiver may have chosen some of them, so they are made few, and such as PostgreSQL can store.
    """
    root = exc
    while (earlier := root.__cause__ or root.__context__) is not None:
        root = earlier
    text = f"{type(exc).__name__}: {root}" if root is not exc and str(root) else type(exc).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:ERROR_MAX_LENGTH])


def _claim(wanted: dict[UUID, tuple[int, int]]) -> list[Claim]:
    with db.autocommit() as connection:
        return webhook_deliveries.claim(connection, wanted)


def _record(results: Sequence[Result]) -> None:
    with db.autocommit() as connection:
        numbers = webhook_deliveries.record(connection, results)
    for status, number in numbers.items():
        WEBHOOK_DELIVERIES.labels(_COUNTED_AS.get(status, status)).inc(number)
    for result in results:
        if result.outcome in {DeliveryStatus.EXHAUSTED, DeliveryStatus.CANCELED}:
            logger.warning("delivery {} is {}: {}", result.claim.id, result.outcome, result.error)


@cache
def _courier() -> Courier:
    vault.make_ready()
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
