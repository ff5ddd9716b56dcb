"""Fixtures of the tests of the gateway with tools of other projects."""

from tests.tasks.conftest import broker, topology

__all__ = ["broker", "topology"]
