"""Limits of the data that one outgoing call may receive."""

import asyncio
import socket
import time
import tracemalloc
from collections.abc import Callable

import aiohttp
import pytest

from gateway.security import public_http
from gateway.security.public_http import ResponseTooLong
from tests.helpers.endless_responses import ENDLESS_AFTER_STATUS, ENDLESS_BEFORE_STATUS, ENDLESS_REFUSED
from tests.helpers.http_servers import answering
from tests.security.test_public_http import call

pytestmark = pytest.mark.unit

CPU_MAX_SECONDS = 0.15
"""The limit for the worst response of one call: ten to twenty times its usual cost."""
MEMORY_MAX_BYTES = 8 * 1024 * 1024


def causes_of(exc: BaseException | None) -> list[type[BaseException]]:
    """Return the types of `exc` and of its causes."""
    found = []
    while exc is not None:
        found.append(type(exc))
        exc = exc.__cause__ or exc.__context__
    return found


@pytest.mark.parametrize("behave", ENDLESS_BEFORE_STATUS.values(), ids=ENDLESS_BEFORE_STATUS)
def test_a_response_without_a_status_ends_at_the_limit_of_one_call(
    behave: Callable[[socket.socket], object],
) -> None:
    with answering(behave) as url, pytest.raises((aiohttp.ClientError, OSError)) as failure:
        call(url, allow_loopback=True)
    assert ResponseTooLong in causes_of(failure.value)


@pytest.mark.parametrize("behave", ENDLESS_AFTER_STATUS.values(), ids=ENDLESS_AFTER_STATUS)
def test_a_status_is_returned_despite_an_endless_body(behave: Callable[[socket.socket], object]) -> None:
    with answering(behave) as url:
        assert call(url, allow_loopback=True) == [200]


ENDLESS = ENDLESS_BEFORE_STATUS | ENDLESS_AFTER_STATUS | ENDLESS_REFUSED


@pytest.mark.parametrize("behave", ENDLESS.values(), ids=ENDLESS)
def test_every_response_takes_bounded_time_and_memory(behave: Callable[[socket.socket], object]) -> None:
    async def read_all() -> tuple[float, int]:
        async with public_http.session(allow_loopback=True, user_agent="test", timeout_seconds=10) as session:
            tracemalloc.start()
            started = time.thread_time()
            try:
                async with session.post(url, data=b"{}") as answer:
                    await answer.content.read(-1)
            except (aiohttp.ClientError, OSError):
                pass
            spent = time.thread_time() - started
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return spent, peak

    with answering(behave) as url:
        spent, peak = asyncio.run(read_all())
    assert spent < CPU_MAX_SECONDS
    assert peak < MEMORY_MAX_BYTES
