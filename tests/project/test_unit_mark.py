"""The mark `unit`: tests that have it run without servers, and fail if they use one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.code import ROOT

pytestmark = pytest.mark.unit

LIMIT_SECONDS = 60
MARKED = """
import pytest
from gateway.db import begin
pytestmark = pytest.mark.unit

def test_pure():
    pass

def test_that_connects():
    with begin():
        pass

def test_with_a_fixture(database):
    pass
"""
NOTE = "A test with the mark `unit` runs without PostgreSQL and RabbitMQ."


def run(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a module of tests without servers, with the fixtures and hooks of all tests."""
    module = tmp_path / "test_sample.py"
    module.write_text(source)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(module)]
    return subprocess.run(
        command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )


def test_a_test_with_the_mark_passes_without_servers_and_fails_if_it_uses_one(tmp_path: Path) -> None:
    done = run(tmp_path, MARKED)
    assert "1 failed, 1 passed" in done.stdout
    assert "1 error" in done.stdout
    assert done.stdout.count(NOTE) == 2


def test_a_test_without_the_mark_is_refused_without_servers(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_pure():\n    pass\n")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert "make test" in done.stderr
