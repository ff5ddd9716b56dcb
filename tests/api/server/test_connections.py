"""Limit the connections per address, with and without a request."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.api.server import connections

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(sys.platform != "linux", reason="the connections are counted in /proc"),
]

MOST = 5


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Close the sockets that the test opens."""
    with ExitStack() as stack:
        yield stack


def crowd(opened: ExitStack, server: socket.socket, count: int, source: str) -> list[socket.socket]:
    """Open connections from an address, and accept them; return the client sockets, oldest first."""
    clients = []
    for _ in range(count):
        client = opened.enter_context(socket.create_connection(server.getsockname(), 5, (source, 0)))
        opened.enter_context(server.accept()[0])
        clients.append(client)
    return clients


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True


def test_an_address_with_too_many_connections_loses_its_oldest_ones_and_other_addresses_none(
    opened: ExitStack,
) -> None:
    server = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    elsewhere = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    many = crowd(opened, server, MOST + 3, "127.0.0.1")
    few = crowd(opened, server, MOST, "127.0.0.2")
    others = crowd(opened, elsewhere, MOST + 3, "127.0.0.1")

    assert connections.end_excess(server.getsockname()[1], MOST) == 3

    assert [is_open(client) for client in many] == [False] * 3 + [True] * MOST
    assert all(is_open(client) for client in (*few, *others))
    assert connections.end_excess(server.getsockname()[1], MOST + 3) == 0
