"""Fixtures for the tests of flows."""

from collections.abc import Iterator

import pytest

from gateway.flows.webhooks import DeliveryLoop
from tests.helpers.webhooks import loopback_allowed


@pytest.fixture
def delivery_loop() -> Iterator[DeliveryLoop]:
    """Provide the deliveries of one process; webhooks may go to this host."""
    with loopback_allowed():
        loop = DeliveryLoop()
        yield loop
        loop.close()
