"""Settings from the environment, and .env.example, which lists them."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticUndefined
from sqlalchemy import make_url

from gateway.config import ConfigError, Settings, settings

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text()
ASSIGNMENT = re.compile(r"^# ([A-Z_]+)=(.*)$", re.MULTILINE)
NEEDED = {"DATABASE_URL": "postgresql://u:p@localhost:5432/d", "RABBITMQ_URL": "amqp://u:p@localhost:5672/v"}
READ_BY_FLOWER = {"FLOWER_BASIC_AUTH", "FLOWER_BROKER_API"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with nothing but the settings that are needed."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("BROKER_URL", raising=False)
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def complaint(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a process says that cannot start."""
    settings.cache_clear()
    try:
        with pytest.raises(ConfigError) as failed:
            settings()
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    return str(failed.value)


def test_the_example_lists_every_setting_and_nothing_unknown() -> None:
    of_procfile = set(re.findall(r"\$\{(\w+):-", (ROOT / "Procfile").read_text()))
    of_settings = {name.upper() for name in Settings.model_fields}

    assert set(dict(ASSIGNMENT.findall(EXAMPLE))) == of_settings | of_procfile | READ_BY_FLOWER


def test_the_example_shows_the_defaults() -> None:
    shown = dict(ASSIGNMENT.findall(EXAMPLE))
    of_procfile = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "Procfile").read_text()))

    for name, field in Settings.model_fields.items():
        if field.default not in (None, PydanticUndefined):
            default = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
            assert shown[name.upper()] == default, name
    for name, default in of_procfile.items():
        assert shown[name] == default, name


def test_every_setting_of_the_example_has_a_comment() -> None:
    for block in EXAMPLE.split("\n\n")[1:]:
        lines = block.splitlines()
        if any(map(ASSIGNMENT.match, lines)):
            assert not ASSIGNMENT.match(lines[0]), block


def test_the_example_is_valid_as_it_stands(environment: pytest.MonkeyPatch) -> None:
    for name, value in ASSIGNMENT.findall(EXAMPLE):
        environment.setenv(name, value)

    assert Settings().database_url.startswith("postgresql+psycopg://")


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_a_setting_that_is_missing_is_named(environment: pytest.MonkeyPatch, missing: str) -> None:
    environment.delenv(missing)

    assert f"{missing}: is not set" in complaint(environment)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("DATABASE_URL", "mysql://u:p@localhost/d", "must look like postgresql://"),
        ("DATABASE_URL", "postgresql:d", "must look like postgresql://"),
        ("DATABASE_DIRECT_URL", "mysql://u:p@localhost/d", "must look like postgresql://"),
        ("RABBITMQ_URL", "redis://localhost", "broker scheme 'redis' is not supported"),
        ("RABBITMQ_URL", "sqla+postgresql://localhost", "is not supported"),
        ("RABBITMQ_URL", "filesystem://", "broker scheme 'filesystem' is not supported"),
        ("RABBITMQ_URL", "amqp://a:5672/v;redis://b", "broker scheme 'redis' is not supported"),
        ("RABBITMQ_URL", "amqp://", "must look like amqp://"),
        ("PORT", "eighty", "PORT"),
        ("PORT", "70000", "PORT"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL"),
        ("RECONCILIATION_TIME_ZONE", "Mars/Olympus", "is not an IANA time zone"),
        ("ALERT_WEBHOOK_URL", "not a url", "ALERT_WEBHOOK_URL"),
        ("CHUNK_MAX", "0", "CHUNK_MAX"),
        ("FEE_BASIS_POINTS", "10001", "FEE_BASIS_POINTS"),
    ],
)
def test_a_setting_that_is_malformed_is_named_with_the_reason(
    environment: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    environment.setenv(name, value)

    said = complaint(environment)

    assert name in said
    assert reason in said


def test_a_complaint_does_not_show_the_password_of_a_url(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "mysql://u:hunter2@localhost/d")
    environment.setenv("RABBITMQ_URL", "redis://u:hunter2@localhost")

    assert "hunter2" not in complaint(environment)


def test_every_problem_is_told_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("DATABASE_URL")
    environment.setenv("PORT", "x")

    said = complaint(environment)

    assert "DATABASE_URL" in said
    assert "PORT" in said


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_usual_schemes_of_postgresql_are_understood(environment: pytest.MonkeyPatch, scheme: str) -> None:
    environment.setenv("DATABASE_URL", f"{scheme}://u:p@localhost/d")

    assert Settings().database_url == "postgresql+psycopg://u:p@localhost/d"


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("", {}),
        ("?sslmode=verify-full", {"sslmode": "verify-full"}),
    ],
)
def test_several_postgresql_hosts_are_given_as_in_a_libpq_url(
    environment: pytest.MonkeyPatch, tail: str, expected: dict[str, str]
) -> None:
    environment.setenv("DATABASE_URL", f"postgresql://u:p%40@db1:5432,db2:5433/d{tail}")
    url = make_url(Settings().database_url)
    _, arguments = url.get_dialect()().create_connect_args(url)
    hosts = {"user": "u", "password": "p@", "host": "db1,db2", "port": "5432,5433", "dbname": "d"}
    assert arguments == hosts | expected


def test_the_broker_may_be_named_by_either_variable(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("RABBITMQ_URL")
    environment.setenv("BROKER_URL", "amqps://u:p@a/v;amqps://u:p@b/v")

    assert Settings().rabbitmq_url == "amqps://u:p@a/v;amqps://u:p@b/v"


def test_an_empty_variable_counts_as_unset(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALERT_WEBHOOK_URL", "")
    environment.setenv("PORT", "")

    assert (Settings().alert_webhook_url, Settings().port) == (None, 8000)


def test_settings_do_not_change(environment: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
