"""A broker with the gateway's topology, in a vhost of the tests' own."""

from collections.abc import Iterator

import pytest
from kombu import Connection, pools

import celeryconfig
from tasks import app, topology


@pytest.fixture(scope="session")
def _topology() -> Iterator[None]:
    topology.declare()
    yield
    pools.reset()


@pytest.fixture
def broker(_topology: None) -> Iterator[Connection]:
    """An open connection; all queues are empty before and after the test."""
    queues = (*celeryconfig.WORK_QUEUES, *celeryconfig.DEAD_LETTER_QUEUES, celeryconfig.UNROUTED_QUEUE)
    with app.connection_for_write() as connection:
        for queue in queues:
            queue(connection.default_channel).purge()
        yield connection
        for queue in queues:
            queue(connection.default_channel).purge()
