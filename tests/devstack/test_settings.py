"""The folders, ports and environment of a stack."""

import json
import resource
import stat
from pathlib import Path

import pytest

from devstack import supervisor
from devstack.servers import private_files
from devstack.services import Endpoints, Plan
from devstack.settings import Layout, Ports, layout
from devstack.terminal import DevstackError

pytestmark = pytest.mark.unit


def test_the_api_has_the_first_port_and_the_others_follow() -> None:
    ports = Ports.counted_from(20000)
    assert (ports.api, ports.flower, ports.management, ports.postgresql, ports.amqp) == (
        20000,
        20001,
        20002,
        20003,
        20004,
    )


@pytest.mark.parametrize("text", ["http", "80", "65535", "-1"])
def test_the_error_about_an_unusable_port_base_names_the_setting(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DEV_PORT_BASE", text)
    with pytest.raises(DevstackError, match="DEV_PORT_BASE"):
        layout()


def test_every_file_of_the_stack_is_in_dev_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEV_DIR", str(tmp_path / "elsewhere"))
    own = layout()
    paths = [own.stack_file, own.env_file, own.lock_file, own.pids, own.logs, own.postgres_data, own.rabbitmq_data]
    assert all(path.is_relative_to(tmp_path / "elsewhere") for path in paths)


def test_only_files_of_the_stack_are_deleted(tmp_path: Path) -> None:
    own = Layout(tmp_path, tmp_path / "cache", Ports.counted_from(20000))
    own.prepare()
    private_files.password(own.secrets_file, "rabbitmq")
    (tmp_path / "thesis.txt").write_text("not a file of the stack")
    own.delete_data()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_server_with_a_url_in_the_environment_is_not_started() -> None:
    plan = Plan.read({"DATABASE_URL": "postgres://u@db/x", "BROKER_URL": "amqps://mq/v"})
    assert plan == Plan("postgresql+psycopg://u@db/x", "amqps://mq/v", None)
    assert Plan.read({"RABBITMQ_URL": ""}) == Plan(None, None, None)


@pytest.mark.parametrize("url", ["redis://localhost/0", "sqla+postgresql://db/x", "filesystem://"])
def test_the_error_about_an_unsupported_broker_says_why(url: str) -> None:
    with pytest.raises(DevstackError, match="dead-letter exchanges"):
        Plan.read({"BROKER_URL": url})


def test_a_password_is_created_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    first = private_files.password(path, "flower")
    other = private_files.password(path, "rabbitmq")
    assert first == private_files.password(path, "flower") != other
    assert len(first) >= 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"flower": first, "rabbitmq": other}


@pytest.mark.parametrize(
    ("files", "caller", "connections"),
    [
        (524_288, {}, None),
        (resource.RLIM_INFINITY, {}, None),
        (4_096, {}, "3496"),
        (256, {}, "64"),
        (4_096, {"API_CONNECTIONS": "1000"}, "1000"),
    ],
)
def test_the_api_accepts_no_more_connections_than_the_limit_of_open_files_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: int, caller: dict[str, str], connections: str | None
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, files))
    own, url = Layout(tmp_path, tmp_path, Ports.counted_from(20000)), "postgresql://x"
    endpoints = Endpoints(url, url, url, "amqp://x", None, "secret")
    found = supervisor.role_environment(own, caller, endpoints)
    assert found.get("API_CONNECTIONS") == connections
