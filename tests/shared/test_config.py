"""Settings from the environment."""

import subprocess
import sys

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from gateway.config import ConfigError, Settings, old_names_in_use, settings
from gateway.config.renamed import RENAMED

pytestmark = pytest.mark.unit

REQUIRED = {"DATABASE_URL": "postgresql://u:p@localhost:5432/d", "RABBITMQ_URL": "amqp://u:p@localhost:5672/v"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Leave only the required settings in the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("BROKER_URL", *(renamed.old for renamed in RENAMED)):
        monkeypatch.delenv(name, raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def error_message(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the message of a process that cannot start."""
    settings.cache_clear()
    try:
        with pytest.raises(ConfigError) as failed:
            settings()
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    return str(failed.value)


@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_a_missing_setting_is_named(environment: pytest.MonkeyPatch, missing: str) -> None:
    environment.delenv(missing)

    assert f"{missing}: is not set" in error_message(environment)


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
        ("MESSAGE_MAX_IDS", "0", "MESSAGE_MAX_IDS"),
        ("OUTBOX_POLL_SECONDS", "nan", "OUTBOX_POLL_SECONDS"),
        ("FEE_BASIS_POINTS", "10001", "FEE_BASIS_POINTS"),
    ],
)
def test_a_malformed_setting_is_named_with_the_reason(
    environment: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    environment.setenv(name, value)

    message = error_message(environment)

    assert name in message
    assert reason in message


def test_an_error_message_does_not_contain_the_password_of_a_url(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "mysql://u:hunter2@localhost/d")
    environment.setenv("RABBITMQ_URL", "redis://u:hunter2@localhost")

    assert "hunter2" not in error_message(environment)


def test_all_problems_are_reported_together(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("DATABASE_URL")
    environment.setenv("PORT", "x")

    message = error_message(environment)

    assert "DATABASE_URL" in message
    assert "PORT" in message


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_usual_schemes_of_postgresql_are_accepted(environment: pytest.MonkeyPatch, scheme: str) -> None:
    environment.setenv("DATABASE_URL", f"{scheme}://u:p@localhost/d")

    assert Settings().database_url == "postgresql+psycopg://u:p@localhost/d"


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("", {}),
        ("?sslmode=verify-full", {"sslmode": "verify-full"}),
    ],
)
def test_several_postgresql_hosts_are_written_as_in_a_libpq_url(
    environment: pytest.MonkeyPatch, tail: str, expected: dict[str, str]
) -> None:
    environment.setenv("DATABASE_URL", f"postgresql://u:p%40@db1:5432,db2:5433/d{tail}")
    url = make_url(Settings().database_url)
    _, arguments = url.get_dialect()().create_connect_args(url)
    hosts = {"user": "u", "password": "p@", "host": "db1,db2", "port": "5432,5433", "dbname": "d"}
    assert arguments == hosts | expected


def test_broker_url_is_a_synonym(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("RABBITMQ_URL")
    environment.setenv("BROKER_URL", "amqps://u:p@a/v;amqps://u:p@b/v")

    assert Settings().rabbitmq_url == "amqps://u:p@a/v;amqps://u:p@b/v"


def test_an_empty_variable_counts_as_unset(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALERT_WEBHOOK_URL", "")
    environment.setenv("PORT", "")
    environment.setenv("CHUNK_MAX", "")

    assert (Settings().alert_webhook_url, Settings().port, Settings().message_max_ids) == (None, 8000, 200)


def test_settings_do_not_change(environment: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "value", "field", "expected"),
    [
        ("CHUNK_MAX", "50", "message_max_ids", 50),
        ("OUTBOX_POLL_MS", "250", "outbox_poll_seconds", 0.25),
        ("MESSAGE_TTL_MS", "14000", "message_ttl_seconds", 14),
        ("MESSAGE_TTL_MS", "1", "message_ttl_seconds", 1),
        ("MESSAGE_TTL_MS", "0", "message_ttl_seconds", 0),
    ],
)
def test_an_old_name_still_works_in_its_old_unit(
    environment: pytest.MonkeyPatch, old: str, value: str, field: str, expected: float
) -> None:
    environment.setenv(old, value)

    assert getattr(Settings(), field) == expected


def test_an_old_name_is_reported_with_its_new_name(environment: pytest.MonkeyPatch) -> None:
    assert old_names_in_use() == []
    environment.setenv("CHUNK_MAX", "50")

    [warning] = old_names_in_use()

    assert "CHUNK_MAX" in warning
    assert "MESSAGE_MAX_IDS" in warning


def test_a_process_logs_one_warning_for_an_old_name(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CHUNK_MAX", "50")
    environment.setenv("LOG_FORMAT", "json")
    code = "from gateway.telemetry import configure_logging; configure_logging()"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert done.stderr.count("MESSAGE_MAX_IDS") == 1


def test_both_names_may_have_the_same_value(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OUTBOX_POLL_MS", "250")
    environment.setenv("OUTBOX_POLL_SECONDS", "0.250")

    assert Settings().outbox_poll_seconds == 0.25


def test_different_values_of_both_names_are_an_error(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CHUNK_MAX", "50")
    environment.setenv("MESSAGE_MAX_IDS", "60")

    message = error_message(environment)

    assert "MESSAGE_MAX_IDS and its old name CHUNK_MAX have different values" in message


@pytest.mark.parametrize(("old", "value"), [("CHUNK_MAX", "0"), ("CHUNK_MAX", "x"), ("MESSAGE_TTL_MS", "soon")])
def test_a_malformed_value_is_reported_by_the_name_that_was_set(
    environment: pytest.MonkeyPatch, old: str, value: str
) -> None:
    environment.setenv(old, value)

    assert f"\n  {old}: " in error_message(environment)
