"""``make check``: lint, format, types, import contracts, code rules, documents, and migrations."""

import dataclasses
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from devstack import services, supervisor
from devstack.bootstrap import ROOT
from devstack.servers import postgres, server_users
from devstack.services import Plan
from devstack.settings import Layout, environment, layout
from devstack.terminal import info, print_error

_LIMIT_SECONDS = 900
_SOURCES = ("gateway", "tasks", "devstack", "bench", "tests", "celeryconfig.py", "migrations")
_NO_BROKER = "amqp://nobody:nothing@127.0.0.1:1/none"
"""The settings need a broker's URL; migrations never connect to it."""


def check() -> int:
    """Run every check, even after one failed; return 1 if one failed."""
    caller = environment(dotenv=False)
    present = [name for name in _SOURCES if (ROOT / name).exists()]
    commands = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "--strict", *present],
        ["lint-imports"],
        [sys.executable, "-m", "pytest", "-q", "-m", "unit", "tests/project"],
    ]
    env = {name: value for name, value in caller.items() if name != "GATEWAY_STACK"}
    failed = [" ".join(command) for command in commands if not _passes(command, env)]
    failed += _check_migrations(caller)
    for name in failed:
        print_error(f"failed: {name}")
    if not failed:
        info("every check passed")
    return 1 if failed else 0


def _passes(command: list[str], env: dict[str, str]) -> bool:
    info(" ".join(command))
    return subprocess.run(command, check=False, cwd=ROOT, env=env, timeout=_LIMIT_SECONDS).returncode == 0


def _check_migrations(caller: dict[str, str]) -> list[str]:
    """Run alembic's commands on a temporary PostgreSQL; return the one that failed."""
    alembic = [sys.executable, "-m", "alembic"]
    steps = [["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"]]
    with tempfile.TemporaryDirectory(prefix="gateway-check-") as folder:
        own = _temporary(Path(folder))
        try:
            with supervisor.supervised(own), services.running(own, Plan(None, _NO_BROKER, None), caller):
                env = caller | {"RABBITMQ_URL": _NO_BROKER, "BROKER_URL": _NO_BROKER, "DATABASE_DIRECT_URL": ""}
                env["DATABASE_URL"] = postgres.url(own, postgres.OWNER)
                for step in steps:
                    if not _passes([*alembic, *step], env):
                        return ["alembic " + " ".join(step)]  # later steps would fail for the same reason
        finally:
            server_users.delete_data(own)
    return []


def _temporary(folder: Path) -> Layout:
    """Return a layout in this folder, with an unused port for PostgreSQL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    usual = layout()
    return Layout(folder / "stack", usual.cache, dataclasses.replace(usual.ports, postgresql=port))
