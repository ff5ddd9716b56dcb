"""Fixtures of the tests with a real acquirer process."""

from tests.sandbox.process import acquirer, configure, own_acquirer, running_acquirer

__all__ = ["acquirer", "configure", "own_acquirer", "running_acquirer"]
