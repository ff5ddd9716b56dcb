"""Run PgBouncer with the project's configuration in front of the tests' PostgreSQL."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL

from tests.helpers.waiting import eventually, free_port

CONFIGURATION = Path(__file__).parents[2] / "ops" / "pgbouncer.ini"
START_SECONDS = 10
STOP_SECONDS = 10
ANY_PASSWORD = "postgresql-asks-for-none"
UNPRIVILEGED = "nobody"
"""PgBouncer refuses to run as root."""


@dataclass(frozen=True)
class PgBouncer:
    """A running pooler."""

    address: URL
    """The database through the pooler."""
    log: Path

    @property
    def url(self) -> str:
        return self.address.render_as_string(hide_password=False)

    def console(self, command: str) -> list[dict[str, Any]]:
        """Run a command of its console."""
        console = self.address.set(drivername="postgresql", database="pgbouncer").render_as_string(hide_password=False)
        with psycopg.connect(console, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
            cursor = connection.execute(command.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def pgbouncer(program: Path, direct: URL, **options: str) -> Iterator[PgBouncer]:
    """Run PgBouncer on a free port in front of the database at `direct`, with further options, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    user, password = direct.username or "", direct.password or ANY_PASSWORD
    port = free_port()
    try:
        (folder / "userlist.txt").write_text(f'"{user}" "{password}"\n')
        listening = {"listen_port": str(port), "auth_file": str(folder / "userlist.txt"), "admin_users": user}
        _configure(folder / "pgbouncer.ini", direct, listening | options)
        own = URL.create("postgresql", user, password, "127.0.0.1", port, direct.database)
        with _running(program, folder) as log:
            pooler = PgBouncer(own, log)
            eventually(lambda: _answers(pooler), within=START_SECONDS, what=f"PgBouncer on port {port}")
            yield pooler
    finally:
        shutil.rmtree(folder)


def _configure(path: Path, direct: URL, options: Mapping[str, str]) -> None:
    configuration = ConfigParser(interpolation=None, inline_comment_prefixes=None)
    configuration.read_string(CONFIGURATION.read_text())
    configuration["databases"] = {
        str(direct.database): f"host={direct.host} port={direct.port} dbname={direct.database}"
    }
    configuration["pgbouncer"].update(options)
    with path.open("w") as file:
        configuration.write(file)


@contextmanager
def _running(program: Path, folder: Path) -> Iterator[Path]:
    command = [str(program), str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        unprivileged = pwd.getpwnam(UNPRIVILEGED)
        for path in (folder, *folder.iterdir()):
            os.chown(path, unprivileged.pw_uid, unprivileged.pw_gid)
        command[1:1] = ["-u", UNPRIVILEGED]
    log = folder / "pgbouncer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield log
        assert process.poll() is None, f"PgBouncer ended:\n{log.read_text()}"
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def _answers(pooler: PgBouncer) -> bool:
    try:
        return bool(pooler.console("SHOW VERSION"))
    except psycopg.OperationalError:
        return False
