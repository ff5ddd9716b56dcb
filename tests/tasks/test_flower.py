"""The authentication of Flower's pages in the stack."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from flower.urls import handlers

from tests.helpers.waiting import eventually, free_port
from tests.tasks.workers import START_SECONDS

HTTP_SECONDS = 10
OPEN = {"/healthcheck", "/static/(.*)", "/login/?", "/logout", ".*"}
"""Public paths, which show nothing about workers and tasks: probe, assets, log-in, log-out, and the 404 page."""


def paths() -> list[str]:
    """Return every path of Flower's pages except the public ones."""
    patterns = [
        handler[0] if isinstance(handler, tuple) else handler.regex.pattern.removesuffix("$") for handler in handlers
    ]
    return [pattern.replace("(.+)", "x").replace("(.*)", "x") for pattern in patterns if pattern not in OPEN]


@pytest.mark.parametrize("path", paths())
def test_flower_shows_nothing_without_its_password(stack: dict[str, Any], path: str) -> None:
    for method in ("GET", "POST"):
        response = requests.request(method, stack["flower_url"] + path, timeout=HTTP_SECONDS, allow_redirects=False)
        assert response.status_code in {401, 403, 405}, (method, response.text[:200])


def test_flower_shows_its_metrics_with_the_password(stack: dict[str, Any]) -> None:
    auth = (stack["flower"]["user"], stack["flower"]["password"])
    response = requests.get(f"{stack['flower_url']}/metrics", auth=auth, timeout=HTTP_SECONDS)
    assert response.status_code == 200
    assert "flower_" in response.text


def test_a_probe_needs_no_password(stack: dict[str, Any]) -> None:
    assert requests.get(f"{stack['flower_url']}/healthcheck", timeout=HTTP_SECONDS).text == "OK"


def test_flower_itself_still_shows_its_metrics_to_everybody(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "tasks", "flower", f"--port={port}", "--basic-auth=user:password"]
    with (tmp_path / "log").open("wb") as log:
        flower = subprocess.Popen([*command, "--address=127.0.0.1"], stdout=log, stderr=subprocess.STDOUT)
    try:

        def status(path: str) -> int:
            try:
                return requests.get(f"http://127.0.0.1:{port}{path}", timeout=HTTP_SECONDS).status_code
            except requests.ConnectionError:
                return 0

        eventually(lambda: status("/") == 401, within=START_SECONDS, what="Flower's pages, which need the password")
        assert status("/metrics") == 200
    finally:
        flower.terminate()
        flower.wait(START_SECONDS)
