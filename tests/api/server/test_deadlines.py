"""Bound the waits for clients in time and number."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.api.server.deadlines import Deadlines
from gateway.errors import RateLimited, RequestTimeout

pytestmark = pytest.mark.unit

SECONDS = 10


def outcome(task: "asyncio.Task[None]") -> BaseException | None:
    """Return the exception of a finished task."""
    return task.exception()


def waiting(deadlines: Deadlines, address: str) -> "asyncio.Task[None]":
    """Start a task that waits for a client that sends nothing."""

    async def wait() -> None:
        deadline = deadlines.begin(address)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            reason = deadline.reason()
            if reason is None:
                raise
            raise reason from None
        finally:
            deadlines.finish(deadline)

    return asyncio.create_task(wait())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    while not condition():  # other tasks run in between
        await asyncio.sleep(0)


def test_the_wait_for_a_silent_client_ends_at_its_deadline() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(seconds=0.05, maximum=10, max_per_address=10)
        with pytest.raises(RequestTimeout):
            await waiting(deadlines, "192.0.2.1")
        assert len(deadlines) == 0

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_an_address_with_too_many_waits_loses_its_oldest_one_and_other_addresses_none() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(seconds=SECONDS, maximum=10, max_per_address=2)
        other = waiting(deadlines, "192.0.2.2")
        first, second, third = (waiting(deadlines, "192.0.2.1") for _ in range(3))
        await until(first.done)
        assert isinstance(outcome(first), RateLimited)
        assert not any(task.done() for task in (other, second, third))
        assert len(deadlines) == 3
        for task in (other, second, third):
            task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_with_too_many_waits_in_total_the_oldest_one_ends() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(seconds=SECONDS, maximum=2, max_per_address=2)
        tasks = [waiting(deadlines, f"192.0.2.{number}") for number in range(3)]
        await until(tasks[0].done)
        assert isinstance(outcome(tasks[0]), RateLimited)
        for task in tasks[1:]:
            task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
