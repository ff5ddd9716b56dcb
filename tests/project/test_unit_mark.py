"""The mark `unit`: tests that have it run without servers, and fail if they use one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.code import ROOT

pytestmark = pytest.mark.unit

LIMIT_SECONDS = 60
MARKED = "import pytest\npytestmark = pytest.mark.unit\n"
CONNECTS = "from gateway.db import begin\ndef test_it():\n    with begin():\n        pass\n"
USES_FIXTURE = "def test_it(database):\n    pass\n"
PURE = "def test_it():\n    pass\n"


def run(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a module of tests without servers, with the fixtures and hooks of all tests."""
    module = tmp_path / "test_sample.py"
    module.write_text(source)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(module)]
    return subprocess.run(
        command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )


def test_a_test_with_the_mark_passes_without_servers(tmp_path: Path) -> None:
    done = run(tmp_path, MARKED + PURE)
    assert done.returncode == pytest.ExitCode.OK, done.stdout


@pytest.mark.parametrize("source", [CONNECTS, USES_FIXTURE], ids=["connection", "fixture"])
def test_a_test_with_the_mark_fails_if_it_uses_the_database(tmp_path: Path, source: str) -> None:
    done = run(tmp_path, MARKED + source)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "A test with the mark `unit` runs without PostgreSQL and RabbitMQ." in done.stdout


def test_a_test_without_the_mark_is_refused_without_servers(tmp_path: Path) -> None:
    done = run(tmp_path, PURE)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert "make test" in done.stderr
