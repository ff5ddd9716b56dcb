"""CPU affinity of API processes, as nginx (`worker_cpu_affinity`) and uWSGI (`cpu-affinity`) have it.

Python runs one thread of a process at a time. Left alone, the kernel lets the next one run on whatever processor is
idle, which must first be woken up and then fetch what Python works on from the other one's cache. Figures are in
docs/performance.md.
"""

import os
import socket
import sys
from contextlib import suppress

_CLAIM = "\0payment-gateway/processor/{}"
"""A name in Linux's abstract socket namespace (unix(7)): one process at a time has it, and no file stays behind."""
_claims: list[socket.socket] = []
"""What this process claimed; the system takes it back when the process ends, however it does."""


def keep_to_one_processor(processes: int) -> int | None:
    """Keep this process, one of `processes` alike, on a processor that none of the others keeps to; its number.

    With fewer processes than processors, where the system knows or allows no affinity, or when each processor is
    claimed already (by another server of this host), nothing changes, and the answer is None. Fewer would lose by it:
    whatever else is busy on its processor slows a process down that may not leave for one that rests.
    """
    if sys.platform != "linux":
        return None
    usable = sorted(os.sched_getaffinity(0))
    if processes < len(usable):
        return None
    for processor in usable:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(_CLAIM.format(processor))
            for thread in os.listdir("/proc/self/task"):  # what they start inherits it
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread), {processor})
        except OSError:  # another process has it, or a service manager forbids the call
            claim.close()
            continue
        _claims.append(claim)
        return processor
    return None
