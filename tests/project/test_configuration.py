"""docs/configuration.md and .env.example list every setting; `make docs` writes them."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from gateway.config import GROUPS, Settings
from gateway.config.renamed import RENAMED

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/configuration.md").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
PROCFILE = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "Procfile").read_text()))
READ_BY_FLOWER = {"FLOWER_BASIC_AUTH", "FLOWER_BROKER_API"}
ROW = re.compile(r"^\| `([A-Z_]+)` \| (\S+) \|", re.MULTILINE)
ASSIGNMENT = re.compile(r"^# ([A-Z_]+)=(.*)$", re.MULTILINE)
NAMES = {name.upper() for name in Settings.model_fields}


def text_of(default: Any) -> str:
    """Return a default as it is written in an environment variable."""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def shown_default(default: Any) -> str:
    """Return a default as the table shows it."""
    if default is PydanticUndefined:
        return "required"
    return "none" if default is None else f"`{text_of(default)}`"


def test_the_page_lists_every_setting_with_its_default() -> None:
    table = dict(ROW.findall(PAGE.partition("\n## Old names\n")[0]))

    assert set(table) == NAMES | set(PROCFILE) | READ_BY_FLOWER
    for name, field in Settings.model_fields.items():
        assert table[name.upper()] == shown_default(field.default)


def test_the_page_lists_every_old_name() -> None:
    assert dict(ROW.findall(PAGE.partition("\n## Old names\n")[2])) == {
        renamed.old: f"`{renamed.new}`" for renamed in RENAMED
    }
    assert {renamed.new for renamed in RENAMED} <= NAMES


def test_the_example_lists_every_setting_and_nothing_unknown() -> None:
    assert set(dict(ASSIGNMENT.findall(EXAMPLE))) == NAMES | set(PROCFILE) | READ_BY_FLOWER


def test_the_example_shows_the_defaults() -> None:
    shown = dict(ASSIGNMENT.findall(EXAMPLE))

    for name, field in Settings.model_fields.items():
        if field.default not in (None, PydanticUndefined):
            assert shown[name.upper()] == text_of(field.default), name
    for name, default in PROCFILE.items():
        assert shown[name] == default, name


def test_every_setting_of_the_example_has_a_comment() -> None:
    for block in EXAMPLE.split("\n\n"):
        lines = block.splitlines()
        if any(map(ASSIGNMENT.match, lines)):
            assert not ASSIGNMENT.match(lines[0]), block


def test_the_example_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ASSIGNMENT.findall(EXAMPLE):
        monkeypatch.setenv(name, value)

    assert Settings().database_url.startswith("postgresql+psycopg://")


def test_every_setting_is_described_and_belongs_to_one_group() -> None:
    grouped = [name for group in GROUPS for name in group.__annotations__ if name != "model_config"]

    assert sorted(grouped) == sorted(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_a_duration_ends_in_its_unit() -> None:
    durations = [name for name in NAMES if re.search("TIMEOUT|TTL|INTERVAL|POLL|BACKOFF|AFTER", name)]

    assert durations
    assert [name for name in durations if not name.endswith("_SECONDS")] == []
    assert [name for name in NAMES if re.search("_(MS|MINUTES|HOURS|DAYS)$", name)] == []
