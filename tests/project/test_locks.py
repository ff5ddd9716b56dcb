"""The lock files pin all packages by version and by hash."""

import re
from pathlib import Path

import pytest

from devstack import bootstrap

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.unit
ENTRY = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ; [^\\\n]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def locked(name: str) -> dict[str, str]:
    """Return the packages of a lock file with their versions; assert that it has no other lines."""
    text = (ROOT / name).read_text()
    rest = ENTRY.sub("", text)
    assert [line for line in rest.splitlines() if not line.startswith("#")] == []
    return {package: version for package, version, _ in ENTRY.findall(text)}


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_each_requirement_is_in_its_lock_file_with_hashes(name: str) -> None:
    wanted = re.findall(r"^([a-z0-9-]+)(?:\[[a-z]+\])?==(\S+)", (ROOT / f"{name}.txt").read_text(), re.MULTILINE)
    assert wanted
    found = locked(f"{name}.lock")
    assert {package: found.get(package) for package, _ in wanted} == dict(wanted)


def test_the_image_installs_what_the_tests_ran_with() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


def test_every_command_that_installs_checks_hashes() -> None:
    for file in ("Dockerfile", "docs/deployment.md", "devstack/bootstrap.py"):
        text = (ROOT / file).read_text()
        installs = re.findall(r'pip"?,? "?install\b.*', text)
        assert installs, file
        assert "require-hashes" in text, file


def test_uv_is_fetched_with_its_hashes() -> None:
    assert ENTRY.fullmatch(bootstrap.locked("uv"))
