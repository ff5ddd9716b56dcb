"""Fixtures of tests that use the gateway with the tools of others."""

from tests.tasks.conftest import broker, topology

__all__ = ["broker", "topology"]
