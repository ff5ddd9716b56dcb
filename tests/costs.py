"""What parsing costs: CPU time and memory, each per byte of what is parsed.

The bounds are several times what the worst input takes on a slow machine, and far below what one input took that was
parsed without bounds (4 200 ns and 2 600 bytes a byte). CPU time is that of the thread, so other load does not count.
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
"""What a call takes however short its input is."""


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of `work`: the better of two runs, for the first may import or compile something."""
    return min(_cpu_seconds(work) for _ in range(2))


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.thread_time()
    with suppress(GatewayError, UnicodeDecodeError):
        work()
    return time.thread_time() - started


def memory_bytes(work: Callable[[], object]) -> int:
    """The most that `work` allocates at once."""
    tracemalloc.start()
    try:
        with suppress(GatewayError, UnicodeDecodeError):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def expect_bounded(what: str, size: int, work: Callable[[], object]) -> int:
    """Assert that `work`, which parses `size` bytes, costs no more than may be; the most that it allocated."""
    seconds = cpu_seconds(work)
    assert seconds <= CPU_FIXED_SECONDS + size * CPU_MAX_NS_PER_BYTE / 1e9, f"{what}: {seconds * 1e9 / size:.0f} ns/B"
    peak = memory_bytes(work)
    assert peak <= MEMORY_FIXED_BYTES + size * MEMORY_MAX_BYTES_PER_BYTE, f"{what}: {peak / size:.0f} bytes a byte"
    return peak
