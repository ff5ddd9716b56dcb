"""What the kernel bounds for the server: open files, and how long a client may leave an answer unread."""

import os
import resource
import socket
import sys
from contextlib import suppress

from gateway.api.server import limits
from gateway.config import ConfigError

FILES_BESIDE_CONNECTIONS = 512
"""Files that a process opens besides its clients' connections: database, temporary files, logs, metrics."""


def raise_file_limit(connections: int) -> None:
    """Allow this process as many open files as it may have.

    Raises:
        ConfigError: its connections need more. The server would accept them without end and without a pause.
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


def end_unread_answers(port: int) -> None:
    """Have the kernel end connections of this server's port whose client does not read (TCP_USER_TIMEOUT, tcp(7)).

    The server has no such setting. Connections inherit the option from the socket that they were accepted on.
    """
    if sys.platform != "linux":
        return
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError), _socket_of(int(descriptor)) as own:  # not a socket, or closed by now
            if own.family in {socket.AF_INET, socket.AF_INET6} and own.getsockname()[1] == port:
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.PIECE_SECONDS * 1000))


def _socket_of(descriptor: int) -> socket.socket:
    """Return another socket object of an open descriptor; OSError when it is no socket."""
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
