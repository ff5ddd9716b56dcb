"""``make check``: lint, format, types, import contracts, and whether models and migrations agree."""

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
"""The settings ask for a broker; the migrations never use it."""


def check() -> int:
    """Run every check, whatever the ones before said; return 1 when one failed."""
    caller = environment(dotenv=False)
    present = [name for name in _SOURCES if (ROOT / name).exists()]
    commands = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "--strict", *present],
        ["lint-imports"],
    ]
    failed = [" ".join(command) for command in commands if not _passes(command, caller)]
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
    """Return the alembic commands that failed, on a PostgreSQL that lives only for this."""
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
            server_users.forget(own)
    return []


def _temporary(folder: Path) -> Layout:
    """Return a layout in that folder, its PostgreSQL on a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    usual = layout()
    return Layout(folder / "stack", usual.cache, dataclasses.replace(usual.ports, postgresql=port))
