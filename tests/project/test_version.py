"""The version is written in one place, gateway/__init__.py."""

import json
import tomllib
from pathlib import Path

import pytest

from gateway import USER_AGENT, __version__, app
from gateway.api.openapi.document import document

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def test_the_project_reads_its_version_from_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gateway.__version__"}


def test_the_api_and_outgoing_requests_state_the_version() -> None:
    endpoints = [endpoint for part in app.PARTS for endpoint in part.endpoints]
    collection = json.loads((ROOT / "docs" / "postman_collection.json").read_text())

    assert document(endpoints)["info"]["version"] == __version__
    assert collection["info"]["version"] == __version__
    assert USER_AGENT.endswith(f"/{__version__}")
