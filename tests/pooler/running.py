"""Run commands and roles of the gateway as separate processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from honcho.environ import parse_procfile

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 60
STOP_SECONDS = 30


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python command to its end, with both streams in its output."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
    )


def alembic(*arguments: str, **environment: str) -> str:
    """Run `alembic`, which must succeed; return its output."""
    return _successful(run("alembic", *arguments, **environment))


def flask(*arguments: str, **environment: str) -> str:
    """Run `flask`, which must succeed; return its output."""
    return _successful(run("flask", "--app", "gateway.app", *arguments, **environment))


def _successful(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextmanager
def roles(folder: Path, *names: str, **environment: str) -> Iterator[dict[str, Path]]:
    """Run roles of the Procfile within the block; yield the log file of each."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | environment | {"LOG_FORMAT": "json", "PATH": tools}
    commands = parse_procfile((ROOT / "Procfile").read_text()).processes
    logs = {name: folder / f"{name}.log" for name in names}
    with ExitStack() as started:
        for name, log in logs.items():
            output = started.enter_context(log.open("wb"))
            command = ["/bin/sh", "-c", f"exec {commands[name]}"]
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
            started.callback(_end, process)
        yield logs


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(STOP_SECONDS)
