"""Waiting for a thread is bounded in time and number."""

import asyncio
from threading import Event

import pytest

from gateway.api.server import limits
from gateway.api.server.threads import ThreadPool
from gateway.errors import Overloaded

pytestmark = pytest.mark.unit

SECONDS = 10


def test_a_function_that_waits_too_long_for_a_thread_is_rejected_and_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "THREAD_WAIT_SECONDS", 0.05)
    started, free, ran = Event(), Event(), []

    def hold() -> bool:
        started.set()
        return free.wait(SECONDS)

    async def scenario() -> None:
        threads = ThreadPool(1, "test")
        busy = asyncio.create_task(threads.run(hold))
        await asyncio.to_thread(started.wait, SECONDS)
        with pytest.raises(Overloaded) as rejected:
            await threads.run(lambda: ran.append("too late"))
        assert rejected.value.headers["Retry-After"] == "1"
        free.set()
        assert await busy
        await threads.run(lambda: ran.append("in time"))

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    assert ran == ["in time"]


def test_the_queue_for_threads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITING_MAX", 2)
    started, free = Event(), Event()

    def hold() -> bool:
        started.set()
        return free.wait(SECONDS)

    async def scenario() -> None:
        threads = ThreadPool(1, "test")
        tasks = [asyncio.create_task(threads.run(hold))]
        await asyncio.to_thread(started.wait, SECONDS)
        tasks += [asyncio.create_task(threads.run(hold)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await threads.run(hold)
        free.set()
        assert await asyncio.gather(*tasks) == [True] * 3

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_the_exception_of_a_function_is_raised_where_it_is_awaited() -> None:
    def fail() -> None:
        raise LookupError("here")

    async def scenario() -> None:
        with pytest.raises(LookupError, match="here"):
            await ThreadPool(1, "test").run(fail)

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
