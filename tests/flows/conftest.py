"""What tests of several flows use."""

from collections.abc import Iterator

import pytest

from gateway.flows.webhooks import Courier
from tests.helpers.webhooks import loopback_allowed


@pytest.fixture
def courier() -> Iterator[Courier]:
    """A process's deliveries of webhooks, which may go to this host."""
    with loopback_allowed():
        made = Courier()
        yield made
        made.close()
