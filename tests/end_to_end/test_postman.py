"""Every call and check of docs/postman_collection.json succeeds on a running gateway."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from devstack.bootstrap import ROOT, file_lock
from devstack.docs import POSTMAN

INSTALL_SECONDS = 300
RUN_SECONDS = 180
BIN = ROOT / "node_modules" / ".bin" / "newman"
LOCK = ROOT / "package-lock.json"


@pytest.fixture(scope="session")
def newman() -> Path:
    """Return newman as in package-lock.json; install it into node_modules if it is not there."""
    installed = ROOT / "node_modules" / ".package-lock.json"
    with file_lock(ROOT / ".dev-cache" / "node_modules.lock", INSTALL_SECONDS):
        if not BIN.exists() or installed.stat().st_mtime < LOCK.stat().st_mtime:
            npm = shutil.which("npm")
            assert npm, "newman runs the Postman collection and needs Node.js with npm: apt-get install npm"
            command = [npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(
                command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_SECONDS
            )
            assert done.returncode == 0, f"npm ci failed: {done.stdout}{done.stderr}"
            installed.touch()
    return BIN


def test_the_postman_collection_succeeds(newman: Path, stack: dict[str, Any], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    values = {
        "base_url": stack["api_url"],
        "operator_email": stack["operator"]["email"],
        "operator_password": stack["operator"]["password"],
    }
    command = [str(newman), "run", str(POSTMAN), "--color", "off", "--reporters", "cli,json"]
    command += ["--reporter-json-export", str(report)]
    for name, value in values.items():
        command += ["--env-var", f"{name}={value}"]

    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_SECONDS)

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    run = json.loads(report.read_text())["run"]
    called = {execution["item"]["name"] for execution in run["executions"]}
    listed = {item["name"] for folder in json.loads(POSTMAN.read_text())["item"] for item in folder["item"]}
    assert called == listed
    assert run["stats"]["assertions"]["total"] >= len(listed)
