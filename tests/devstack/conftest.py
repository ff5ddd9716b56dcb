"""Stacks for the tests of this folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.devstack.started import Started


@contextmanager
def _started(home: Path) -> Iterator[Started]:
    stack = Started(home)
    try:
        stack.wait_until_ready()
        yield stack
    finally:
        stack.end()
        assert stack.command("clean").returncode == 0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Started]:
    """Start a stack that the test may stop or damage."""
    with _started(tmp_path / "dev") as stack:
        yield stack


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Start a stack for tests that do not change it."""
    with _started(tmp_path_factory.mktemp("shared") / "dev") as stack:
        yield stack
