"""Limits that the kernel enforces for the server: open files, and the time in which a client must read a response."""

import os
import resource
import socket
import sys
from contextlib import suppress

from gateway.api.server import limits
from gateway.config import ConfigError

FILES_BESIDE_CONNECTIONS = 512
"""Files that a process opens besides client connections: database, temporary files, logs, metrics."""


def raise_file_limit(connections: int) -> None:
    """Raise the soft limit of open files of this process to its hard limit.

    Raises:
        ConfigError: the connections need more files. The server would retry failing accepts in a busy loop.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = connections + FILES_BESIDE_CONNECTIONS
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise ConfigError(
            f"API_CONNECTIONS={connections} needs {needed} open files, and this process may open {allowed}: raise the "
            "limit (ulimit -Hn, LimitNOFILE), or lower API_CONNECTIONS"
        )


def end_unread_responses(port: int) -> None:
    """Make the kernel close connections of this server whose client does not read (TCP_USER_TIMEOUT, tcp(7)).

    The server has no such setting. Connections inherit the option from the listening socket.
    """
    if sys.platform != "linux":
        return
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket_of(int(descriptor)) as own:  # not a socket, or closed by now
            if own.family in {socket.AF_INET, socket.AF_INET6} and own.getsockname()[1] == port:
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.PIECE_SECONDS * 1000))


def socket_of(descriptor: int) -> socket.socket:
    """Return a new socket object for an open descriptor.

    Raises:
        OSError: the descriptor is not a socket.
    """
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
