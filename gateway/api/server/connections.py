"""Limit the connections of each address, those without a request included.

The server has no such limit, and the application does not see a connection before its request. So a thread counts
the connections of this process among its open files (Linux, proc(5)), and shuts down the oldest of an address that has
too many. Behind a proxy all connections have the proxy's address, and the proxy has to limit them.
"""

import os
import socket
import sys
import time
from collections import defaultdict
from contextlib import suppress
from threading import Thread

from loguru import logger

from gateway.api.server.sockets import socket_of
from gateway.domain.merchants.rate_limits import network_of

CHECK_SECONDS = 0.25
LOG_PAUSE_SECONDS = 10.0
_FILES = "/proc/self/fd"


def watch(port: int, max_per_address: int) -> None:
    """Start to limit the connections to this port, in a thread that lasts as long as the process."""
    if sys.platform != "linux":
        logger.info("without a proxy, connections are limited only in total on this system")
        return
    Thread(target=_watch, args=(port, max_per_address), name="connections", daemon=True).start()
    logger.info("no proxy in front: each address may have {} connections to this process", max_per_address)


def _watch(port: int, max_per_address: int) -> None:
    next_log = 0.0
    while True:
        time.sleep(CHECK_SECONDS)
        ended = end_excess(port, max_per_address)
        if ended and time.monotonic() >= next_log:
            next_log = time.monotonic() + LOG_PAUSE_SECONDS
            logger.info("ended {} connections of an address that had more than {}", ended, max_per_address)


def end_excess(port: int, max_per_address: int) -> int:
    """Shut down the oldest connections of each address that has more than `max_per_address`; return how many.

    An IPv6 address counts as its /64 network.
    """
    descriptors = os.listdir(_FILES)
    if len(descriptors) <= max_per_address:  # the usual case reads only a small folder
        return 0
    by_address: defaultdict[str, list[int]] = defaultdict(list)
    for descriptor in sorted(map(int, descriptors)):  # the lowest number is roughly the oldest connection
        address = _client_of(descriptor, port)
        if address is not None:
            by_address[address].append(descriptor)
    ended = 0
    for address, found in by_address.items():
        for descriptor in found[: max(0, len(found) - max_per_address)]:
            ended += _shut_down(descriptor, port, address)
    return ended


def _client_of(descriptor: int, port: int) -> str | None:
    """Return the address of the client if the descriptor is a connection to `port`."""
    with suppress(OSError), socket_of(descriptor) as own:  # not a socket, not connected, or closed already
        if own.family in {socket.AF_INET, socket.AF_INET6} and own.getsockname()[1] == port:
            return network_of(own.getpeername()[0])
    return None


def _shut_down(descriptor: int, port: int, address: str) -> int:
    """Shut down the connection unless the descriptor now belongs to another one; return the number of shut ones."""
    if _client_of(descriptor, port) == address:
        with suppress(OSError), socket_of(descriptor) as own:
            own.shutdown(socket.SHUT_RDWR)
            return 1
    return 0
