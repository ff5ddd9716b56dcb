"""Measure the cost of parsing: CPU time and memory per byte of input.

The bounds are several times the cost of the worst input on a slow machine, and far below the cost of an input that was
parsed without bounds (4 200 ns and 2 600 bytes per byte). CPU time is per thread, so other load does not count.
"""

import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

from gateway.errors import GatewayError

CPU_MAX_NS_PER_BYTE = 2_000
MEMORY_MAX_BYTES_PER_BYTE = 200
CPU_FIXED_SECONDS = 0.01
MEMORY_FIXED_BYTES = 1024 * 1024
"""The fixed cost of a call, regardless of its input."""


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one run of `work`."""
    started = time.thread_time()
    with suppress(GatewayError, UnicodeDecodeError):
        work()
    return time.thread_time() - started


def memory_bytes(work: Callable[[], object]) -> int:
    """Return the peak of memory that `work` allocates."""
    tracemalloc.start()
    try:
        with suppress(GatewayError, UnicodeDecodeError):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def expect_bounded(what: str, size: int, work: Callable[[], object]) -> int:
    """Assert that `work`, which parses `size` bytes, stays within the bounds; return its peak of memory."""
    limit = CPU_FIXED_SECONDS + size * CPU_MAX_NS_PER_BYTE / 1e9
    seconds = _cpu_seconds(work)
    if seconds > limit:  # the first run may import or compile something
        seconds = _cpu_seconds(work)
    assert seconds <= limit, f"{what}: {seconds * 1e9 / size:.0f} ns/B"
    peak = memory_bytes(work)
    assert peak <= MEMORY_FIXED_BYTES + size * MEMORY_MAX_BYTES_PER_BYTE, f"{what}: {peak / size:.0f} bytes/B"
    return peak
