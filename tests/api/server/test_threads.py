"""Waits for a thread and for a client are bounded in time and number."""

import asyncio
from collections.abc import Callable
from threading import Event

import pytest

from gateway.api.server import limits
from gateway.api.server.threads import Threads
from gateway.api.server.waits import Waits
from gateway.errors import Overloaded, RateLimited, RequestTimeout

pytestmark = pytest.mark.unit

SECONDS = 10


def outcome(task: "asyncio.Task[None]") -> BaseException | None:
    """Return the exception of a finished task."""
    return task.exception()


def test_what_waits_too_long_for_a_thread_is_refused_and_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "THREAD_WAIT_SECONDS", 0.05)
    started, free, ran = Event(), Event(), []

    def hold() -> bool:
        started.set()
        return free.wait(SECONDS)

    async def scenario() -> None:
        threads = Threads(1, "test")
        busy = asyncio.create_task(threads.run(hold))
        await asyncio.to_thread(started.wait, SECONDS)
        with pytest.raises(Overloaded) as refused:
            await threads.run(lambda: ran.append("too late"))
        assert refused.value.headers["Retry-After"] == "1"
        free.set()
        assert await busy
        await threads.run(lambda: ran.append("in time"))

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    assert ran == ["in time"]


def test_the_queue_of_what_waits_for_a_thread_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITING_MAX", 2)
    started, free = Event(), Event()

    def hold() -> bool:
        started.set()
        return free.wait(SECONDS)

    async def scenario() -> None:
        threads = Threads(1, "test")
        tasks = [asyncio.create_task(threads.run(hold))]
        await asyncio.to_thread(started.wait, SECONDS)
        tasks += [asyncio.create_task(threads.run(hold)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await threads.run(hold)
        free.set()
        assert await asyncio.gather(*tasks) == [True] * 3

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_what_a_thread_raises_is_raised_where_it_is_awaited() -> None:
    def fail() -> None:
        raise LookupError("here")

    async def scenario() -> None:
        with pytest.raises(LookupError, match="here"):
            await Threads(1, "test").run(fail)

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def waiting(waits: Waits, address: str) -> "asyncio.Task[None]":
    """Start a task that waits for a client that sends nothing."""

    async def wait() -> None:
        began = waits.begin(address)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            reason = began.reason()
            if reason is None:
                raise
            raise reason from None
        finally:
            waits.finish(began)

    return asyncio.create_task(wait())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    while not condition():  # the tasks that change it run meanwhile
        await asyncio.sleep(0)


def test_a_client_that_sends_nothing_is_left_in_time() -> None:
    async def scenario() -> None:
        waits = Waits(seconds=0.05, most=10, most_per_address=10)
        with pytest.raises(RequestTimeout):
            await waiting(waits, "192.0.2.1")
        assert len(waits) == 0

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_an_address_with_too_many_waits_loses_its_own_oldest_and_nobody_elses() -> None:
    async def scenario() -> None:
        waits = Waits(seconds=SECONDS, most=10, most_per_address=2)
        other = waiting(waits, "192.0.2.2")
        first, second, third = (waiting(waits, "192.0.2.1") for _ in range(3))
        await until(first.done)
        assert isinstance(outcome(first), RateLimited)
        assert not any(task.done() for task in (other, second, third))
        assert len(waits) == 3
        for task in (other, second, third):
            task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_with_too_many_waits_in_all_the_oldest_ends() -> None:
    async def scenario() -> None:
        waits = Waits(seconds=SECONDS, most=2, most_per_address=2)
        tasks = [waiting(waits, f"192.0.2.{number}") for number in range(3)]
        await until(tasks[0].done)
        assert isinstance(outcome(tasks[0]), RateLimited)
        for task in tasks[1:]:
            task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
