"""Set the limits that the kernel enforces: open files, unread responses."""

import os
import resource
import socket
import subprocess
import sys

import pytest

from gateway.api.server import limits, sockets

pytestmark = pytest.mark.unit

UNREAD_MILLISECONDS = int(limits.PIECE_SECONDS * 1000)
RAISE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from gateway.api.server import sockets
sockets.raise_file_limit(int(sys.argv[3]))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def unread_limit(of: socket.socket) -> int:
    return of.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
def test_connections_of_the_server_have_a_user_timeout() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(server.getsockname()) as client,
    ):
        earlier, _ = server.accept()
        sockets.end_unread_responses(server.getsockname()[1])
        with earlier, socket.create_connection(server.getsockname()):
            later, _ = server.accept()
            with later:
                assert [unread_limit(end) for end in (server, earlier, later)] == [UNREAD_MILLISECONDS] * 3
        assert unread_limit(other) == unread_limit(client) == 0
        assert server.getblocking()


def limit_or_error(soft: int, hard: int, connections: int) -> tuple[str, str]:
    """Return the limit of open files that a process with these limits sets, and its error output."""
    command = [sys.executable, "-c", RAISE, *map(str, (soft, hard, connections))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    return done.stdout.strip(), done.stderr


def test_a_process_raises_its_limit_of_open_files_and_ends_if_that_is_too_low() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    enough = 4096
    assert hard == resource.RLIM_INFINITY or hard >= enough
    assert limit_or_error(256, enough, 1000) == (str(enough), "")
    limit, error = limit_or_error(256, 512, 1000)
    assert limit == ""
    assert "API_CONNECTIONS=1000 needs 1512 open files, and this process may open 512" in error
