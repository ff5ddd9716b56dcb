"""A broker with the gateway's topology, in the virtual host of the tests."""

from collections.abc import Iterator

import pytest
from kombu import Connection, pools

import celeryconfig
from tasks import app
from tasks.topology import declare


@pytest.fixture(scope="session")
def topology() -> Iterator[None]:
    """Declare the topology."""
    declare()
    yield
    pools.reset()


@pytest.fixture
def broker(topology: None) -> Iterator[Connection]:  # noqa: ARG001
    """Return an open connection; all queues are empty before and after the test."""
    queues = (*celeryconfig.WORK_QUEUES, *celeryconfig.DEAD_LETTER_QUEUES, celeryconfig.UNROUTED_QUEUE)
    with app.connection_for_write() as connection:
        for queue in queues:
            queue(connection.default_channel).purge()
        yield connection
        for queue in queues:
            queue(connection.default_channel).purge()
