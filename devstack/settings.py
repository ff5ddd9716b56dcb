"""The folders and ports of a stack, from DEV_DIR, DEV_PORT_BASE and DEV_CACHE; the environment and .env."""

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from devstack.bootstrap import ROOT, VENV
from devstack.terminal import DevstackError

RUN_DIR, RUN_PORT_BASE = ".dev", 15870
TEST_DIR, TEST_PORT_BASE = ".dev-test", 16870
CHAOS_DIR, CHAOS_PORT_BASE = ".dev-chaos", 14870
CLUSTER_DIR, CLUSTER_PORT_BASE = ".dev-cluster", 13870
BENCH_DIR, BENCH_PORT_BASE = ".dev-bench", 12870
MARKER = "DEVSTACK_DIR"
"""Set for every process of the stack, to recognize it even after its pid was reused."""
POSTGRES_ACCESS = "postgres-hba.conf"
_FOLDERS = (
    "postgres",
    "postgres.new",
    "postgres.old",
    "rabbitmq",
    "keys",
    "metrics",
    "beat",
    "hold",
    "bench",
    "logs",
    "pids",
)
_FILES = (
    POSTGRES_ACCESS,
    "secrets.json",
    "merchant.json",
    "operator.json",
    "stack.json",
    "env",
    "made-by-make-test",
    "acquirer.sqlite",
    "acquirer.sqlite-wal",
    "acquirer.sqlite-shm",
)


@dataclass(frozen=True)
class Ports:
    """The ports of the listeners, counted from DEV_PORT_BASE in this order."""

    api: int
    flower: int
    management: int
    postgresql: int
    amqp: int
    prometheus: int
    """Unused; kept so that the following ports keep their numbers."""
    distribution: int
    epmd: int
    receiver: int
    acquirer: int

    @classmethod
    def counted_from(cls, base: int) -> "Ports":
        count = len(dataclasses.fields(cls))
        if not 1024 <= base <= 65535 - count:
            raise DevstackError(f"DEV_PORT_BASE must be 1024 to {65535 - count}, not {base}")
        return cls(*range(base, base + count))


@dataclass(frozen=True)
class Layout:
    """The folders and ports of one stack."""

    home: Path
    cache: Path
    ports: Ports

    @property
    def stack_file(self) -> Path:
        return self.home / "stack.json"

    @property
    def env_file(self) -> Path:
        return self.home / "env"

    @property
    def lock_file(self) -> Path:
        return self.home / "lock"

    @property
    def supervisor_file(self) -> Path:
        return self.home / "supervisor.json"

    @property
    def pids(self) -> Path:
        return self.home / "pids"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def secrets_file(self) -> Path:
        return self.home / "secrets.json"

    @property
    def acquirer_file(self) -> Path:
        return self.home / "acquirer.sqlite"

    @property
    def postgres_data(self) -> Path:
        return self.home / "postgres"

    @property
    def rabbitmq_data(self) -> Path:
        return self.home / "rabbitmq"

    def prepare(self) -> None:
        """Create the folders. Only their owner can read them, because they contain passwords and keys."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(self.home, os.W_OK | os.X_OK):
            raise DevstackError(f"{self.home} is not writable; set DEV_DIR to another folder")
        for folder in (self.pids, self.logs):
            folder.mkdir(mode=0o700, exist_ok=True)

    def delete_data(self) -> None:
        """Delete the files of a stack by name, because DEV_DIR may contain other files.

        The lock file stays, because the caller holds the lock.
        """
        for name in _FOLDERS:
            path = self.home / name
            if path.is_symlink():  # links to a server's folder, which server_users.delete_data deletes
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)
        for name in _FILES:
            (self.home / name).unlink(missing_ok=True)


def layout(home: str = RUN_DIR, port_base: int = RUN_PORT_BASE) -> Layout:
    """Return the folders and ports from DEV_DIR, DEV_PORT_BASE and DEV_CACHE, with these defaults."""
    text = os.environ.get("DEV_PORT_BASE") or str(port_base)
    if not text.isdecimal():
        raise DevstackError(f"DEV_PORT_BASE must be a port number, not {text!r}")
    return Layout(
        home=(ROOT / (os.environ.get("DEV_DIR") or home)).resolve(),
        cache=(ROOT / (os.environ.get("DEV_CACHE") or ".dev-cache")).resolve(),
        ports=Ports.counted_from(int(text)),
    )


def environment(*, dotenv: bool) -> dict[str, str]:
    """Return the caller's environment, over the values of .env if `dotenv`, with the project's tools first on PATH."""
    values = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value} if dotenv else {}
    values.update(os.environ)
    tools = str(VENV / "bin")
    path = values.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != tools:
        values["PATH"] = f"{tools}{os.pathsep}{path}"
    return values
