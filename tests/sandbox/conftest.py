"""Fixtures of the tests that use the sandbox acquirer."""

from tests.sandbox.process import acquirer, configure, own_acquirer, running_acquirer

__all__ = ["acquirer", "configure", "own_acquirer", "running_acquirer"]
