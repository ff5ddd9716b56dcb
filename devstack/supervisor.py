"""Start a stack (servers, migrations, roles, health, stack.json), watch it, and stop it in order."""

import compileall
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from devstack import health, processes, procfile, services, stackfile, waiting
from devstack.bootstrap import ROOT, file_lock
from devstack.processes import Unit
from devstack.servers import accounts, postgres, private_files
from devstack.services import Endpoints, Plan
from devstack.settings import Layout
from devstack.terminal import DevstackError, info

_STEP_LIMIT_SECONDS = 120
_RESTART_PAUSE_SECONDS = 1.0
_DEFAULTS = {"LOG_FORMAT": "console", "RETRY_BACKOFF_SECONDS": "1", "WEBHOOK_ALLOW_LOOPBACK": "true"}
"""The caller's environment overrides these. Retries start after a second, so that the demo ends soon; webhooks may go
to this host."""

_FILES_WANTED = 10_000
_FILES_BESIDE_CONNECTIONS = 600
_CONNECTIONS_MIN = 64
NEEDS_NO_BROKER = frozenset({"api"})
"""Roles that start before RabbitMQ is ready."""


@dataclass
class Stack:
    """A running stack."""

    layout: Layout
    endpoints: Endpoints
    env: dict[str, str]
    units: list[Unit]
    merchant: accounts.Merchant
    operator: accounts.Operator
    helpers: set[int] = field(default_factory=set)
    """Pids of other children of this process, such as pytest."""
    _ended: dict[str, float] = field(default_factory=dict)

    def publish(self) -> dict[str, Any]:
        """Write stack.json and return its contents."""
        found = stackfile.contents(self.layout, self.endpoints, self.units, self.merchant, self.operator)
        stackfile.write(self.layout, found)
        return found

    def watch(self, *, restart: bool) -> None:
        """Check every process once. A process that ended is an error, or is restarted if `restart`.

        A process is not restarted while the file ``$DEV_DIR/hold/<name>`` exists; tests use it.
        """
        if not restart:
            health.refuse_ended(self.layout, self.units)
            return
        for unit in self.units:
            if unit.managed.alive():
                continue
            if unit.name not in self._ended:
                info(f"{unit.name} ended with status {unit.managed.exit_status()}")
            ended = self._ended.setdefault(unit.name, time.monotonic())
            held = (self.layout.home / "hold" / unit.name).exists()
            if not held and time.monotonic() - ended >= _RESTART_PAUSE_SECONDS:
                unit.relaunch()
                del self._ended[unit.name]
                info(f"{unit.name} restarted")
                self.publish()
                processes.reap_orphans({*self.helpers, *(other.managed.pid for other in self.units)})


@contextmanager
def supervised(layout: Layout) -> Iterator[None]:
    """Be the only supervisor of this folder; first stop the processes that an earlier one left behind."""
    layout.prepare()
    if is_supervised(layout):
        raise DevstackError(
            f"a stack already runs in {layout.home}{_known_pid(layout)}; stop it with `make stop`, or set both DEV_DIR"
            " and DEV_PORT_BASE to start a second one"
        )
    with file_lock(layout.lock_file, limit_seconds=5):
        layout.stack_file.unlink(missing_ok=True)
        services.end_leftovers(layout)
        processes.adopt_orphans()
        own = psutil.Process()
        record = {"pid": own.pid, "started": own.create_time()}
        private_files.write_private(layout.supervisor_file, json.dumps(record))
        try:
            yield
        finally:
            processes.kill_strays(layout)
            processes.reap_orphans(limit_seconds=processes.REAP_LIMIT_SECONDS)
            layout.supervisor_file.unlink(missing_ok=True)


def is_supervised(layout: Layout) -> bool:
    """Return whether a supervisor is running: a dead process holds no lock."""
    if not layout.lock_file.exists():
        return False
    try:
        with file_lock(layout.lock_file, limit_seconds=0):
            return False
    except DevstackError:
        return True


def _known_pid(layout: Layout) -> str:
    pid = private_files.read_json(layout.supervisor_file).get("pid")
    return f" (supervisor {pid})" if pid else ""


@contextmanager
def running(
    layout: Layout, caller: dict[str, str], plan: Plan, extra_roles: dict[str, str] | None = None
) -> Iterator[Stack]:
    """Start a whole stack, yield it, and stop it in order; the caller has entered ``supervised``."""
    _check_semaphores()
    _compile()
    commands = procfile.roles() | (extra_roles or {})
    ports = {"the API": layout.ports.api, "Flower": layout.ports.flower}
    services.refuse_taken_ports(services.needed_ports(layout, plan, ports))
    with services.running(layout, plan, caller) as (endpoints, servers):
        env = role_environment(layout, caller, endpoints)
        units: list[Unit] = []
        try:
            migrate(layout, plan, endpoints, env)
            if endpoints.database_direct_url:
                defaults = ["flask", "--app", "gateway.app", "database", "set-session-defaults"]
                _step(layout, "session-defaults", [sys.executable, "-m", *defaults], env)
            _start(layout, {name: commands[name] for name in commands if name in NEEDS_NO_BROKER}, env, units)
            services.wait_for_broker(layout, endpoints, servers)
            _step(layout, "topology", [sys.executable, "-m", "tasks.topology"], env)
            _start(layout, {name: commands[name] for name in commands if name not in NEEDS_NO_BROKER}, env, units)
            where = health.Addresses(stackfile.api_url(layout), stackfile.flower_url(layout), endpoints.broker_url)
            health.wait_until_healthy(layout, units, commands, where)
            merchant = accounts.merchant(layout, where.api_url)
            operator = accounts.operator(layout, where.api_url, env)
            stack = Stack(layout, endpoints, env, [*servers, *units], merchant, operator)
            stack.publish()
            stackfile.write_env(layout, endpoints, {"KEYS_DIR": env["KEYS_DIR"]})
            yield stack
        finally:
            for file in (layout.stack_file, layout.env_file):
                file.unlink(missing_ok=True)
            _stop_roles(layout, units)


def migrate(layout: Layout, plan: Plan, endpoints: Endpoints, env: dict[str, str]) -> None:
    """Migrate the schema as its owner. In the PostgreSQL of the stack the gateway's role owns no table."""
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    _step(layout, "migrations", command, env | {"DATABASE_URL": endpoints.owner_url})
    if not plan.database_url:
        postgres.protect_records(layout)


def _compile() -> None:
    """Compile the gateway once. Where PYTHONDONTWRITEBYTECODE is set, every role would compile it at every start."""
    for package in ("gateway", "tasks"):
        compileall.compile_dir(ROOT / package, quiet=2)


def _start(layout: Layout, commands: dict[str, str], env: dict[str, str], units: list[Unit]) -> None:
    info(f"starting {', '.join(commands)}")
    for name, command in commands.items():
        units.append(procfile.start(layout, name, command, env))


def _stop_roles(layout: Layout, units: list[Unit]) -> None:
    managed = {unit.name: unit.managed for unit in units}
    for group in procfile.stop_order(managed):
        processes.stop([managed[name] for name in group])
    servers = processes.leftovers(layout)
    processes.kill_strays(layout, keep=[servers[name] for name in services.STOP_LAST if name in servers])


def _step(layout: Layout, what: str, command: list[str], env: dict[str, str]) -> None:
    waiting.run_step(what, command, env, layout.logs / f"{what}.log", _STEP_LIMIT_SECONDS)
    info(f"{what} done")


def role_environment(layout: Layout, caller: dict[str, str], endpoints: Endpoints) -> dict[str, str]:
    """Return the variables of every role, and create the folders that they name."""
    metrics, keys, beat = (layout.home / name for name in ("metrics", "keys", "beat"))
    shutil.rmtree(metrics, ignore_errors=True)  # counters of processes that have ended
    for folder in (metrics, keys, beat):
        folder.mkdir(mode=0o700, exist_ok=True)
    own = {
        "HOST": "127.0.0.1",
        "PORT": str(layout.ports.api),
        "KEYS_DIR": str(keys),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "BEAT_STATE_DIR": str(beat),
        "FLOWER_PORT": str(layout.ports.flower),
        "FLOWER_BASIC_AUTH": f"{stackfile.FLOWER_USER}:{private_files.password(layout.secrets_file, 'flower')}",
        "PYTHONUNBUFFERED": "1",
    }
    if endpoints.management_url:
        own["FLOWER_BROKER_API"] = f"{endpoints.management_url}/api/"
    return _DEFAULTS | _fitting_connections() | caller | own | endpoints.variables()


def _fitting_connections() -> dict[str, str]:
    """Return a lower API_CONNECTIONS if the limit of open files is too low for the default."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= _FILES_WANTED:
        return {}
    return {"API_CONNECTIONS": str(max(_CONNECTIONS_MIN, hard - _FILES_BESIDE_CONNECTIONS))}


def _check_semaphores() -> None:
    """Check for POSIX semaphores. Without them Celery's prefork pool fails with a bare PermissionError."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError as error:
        mode = f"{os.stat('/dev/shm').st_mode & 0o7777:o}" if os.path.isdir("/dev/shm") else "missing"  # noqa: S108
        raise DevstackError(
            f"this machine has no semaphores ({error}), which Celery's workers need: /dev/shm must be a writable folder"
            f" of mode 1777, but is {mode}. Run as root: mkdir -p /dev/shm && chmod 1777 /dev/shm"
        ) from error
