"""Unauthenticated access to the stack's RabbitMQ."""

import os
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from devstack.servers import private_files
from devstack.settings import Ports

HTTP_SECONDS = 10


@pytest.fixture
def ports(stack_file: dict[str, Any]) -> Ports:
    """Return the ports of the running stack."""
    return Ports.counted_from(urlsplit(stack_file["api_url"]).port or 0)


@pytest.fixture
def stack_file() -> dict[str, Any]:
    """Return stack.json of the running stack."""
    return private_files.read_json(Path(os.environ["GATEWAY_STACK"]))


def test_the_port_of_the_prometheus_plugin_is_closed(ports: Ports) -> None:
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", ports.prometheus)) != 0


@pytest.mark.parametrize("auth", [None, ("guest", "guest"), ("payments", "payments")])
def test_the_management_api_requires_the_password(stack_file: dict[str, Any], auth: tuple[str, str] | None) -> None:
    for path in ("overview", "queues", "nodes", "definitions", "metrics"):
        url = f"{stack_file['management_url']}/api/{path}"
        assert requests.get(url, auth=auth, timeout=HTTP_SECONDS).status_code in {401, 404}, path


def test_the_erlang_cookie_is_random_and_only_its_owner_can_read_it(stack_file: dict[str, Any]) -> None:
    home = Path(os.environ["GATEWAY_STACK"]).parent
    cookie = home / "rabbitmq" / "home" / ".erlang.cookie"
    assert stat.S_IMODE(cookie.stat().st_mode) & 0o077 == 0
    assert cookie.read_text() == private_files.read_json(home / "secrets.json")["erlang"]
    assert stack_file


def test_every_process_of_the_stack_listens_on_loopback_only(stack_file: dict[str, Any]) -> None:
    pids = {pid for found in stack_file["processes"].values() for pid in found}
    listening = [
        found for found in psutil.net_connections("inet") if found.status == psutil.CONN_LISTEN and found.pid in pids
    ]
    assert len({found.pid for found in listening}) >= 4
    assert {found.laddr.ip for found in listening if found.laddr} <= {"127.0.0.1", "::1"}
