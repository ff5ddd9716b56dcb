"""The authentication of Flower's pages in the stack."""

from typing import Any

import pytest
import requests
from flower.urls import handlers

HTTP_SECONDS = 10
OPEN = {"/healthcheck", "/static/(.*)", "/login/?", "/logout", ".*"}
"""Public paths, which show nothing about workers and tasks: probes, assets, log-in, log-out, and the 404 page."""


def paths() -> list[str]:
    """Return every path of Flower's pages except the public ones."""
    patterns = [
        handler[0] if isinstance(handler, tuple) else handler.regex.pattern.removesuffix("$") for handler in handlers
    ]
    return [pattern.replace("(.+)", "x").replace("(.*)", "x") for pattern in patterns if pattern not in OPEN]


@pytest.mark.parametrize("path", paths())
def test_flower_shows_nothing_without_its_password(stack: dict[str, Any], path: str) -> None:
    for method in ("GET", "POST"):
        answer = requests.request(method, stack["flower_url"] + path, timeout=HTTP_SECONDS, allow_redirects=False)
        assert answer.status_code in {401, 403, 405}, (method, answer.text[:200])


def test_flower_shows_its_metrics_with_the_password(stack: dict[str, Any]) -> None:
    auth = (stack["flower"]["user"], stack["flower"]["password"])
    answer = requests.get(f"{stack['flower_url']}/metrics", auth=auth, timeout=HTTP_SECONDS)
    assert answer.status_code == 200
    assert "flower_" in answer.text


def test_a_probe_needs_no_password(stack: dict[str, Any]) -> None:
    assert requests.get(f"{stack['flower_url']}/healthcheck", timeout=HTTP_SECONDS).text == "OK"
