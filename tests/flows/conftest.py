"""What tests of several flows use."""

from collections.abc import Iterator

import pytest

from gateway.flows.webhooks import DeliveryLoop
from tests.helpers.webhooks import loopback_allowed


@pytest.fixture
def courier() -> Iterator[DeliveryLoop]:
    """A process's deliveries of webhooks, which may go to this host."""
    with loopback_allowed():
        made = DeliveryLoop()
        yield made
        made.close()
