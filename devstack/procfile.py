"""The roles of the Procfile: start them as in production, and show their logs in the terminal."""

import contextlib
import datetime
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from honcho.colour import get_colours
from honcho.environ import parse_procfile
from honcho.printer import Message, Printer

from devstack.bootstrap import ROOT
from devstack.processes import Managed, Stopping, Unit, spawn
from devstack.settings import Layout

_WORKER_LIMIT_SECONDS = 90
"""A worker first finishes its running tasks; this is longer than the longest task may take."""
_LIMIT_SECONDS = 45
_STOP_FIRST = (("api",), ("beat", "relay", "flower"))
"""The API stops first, so that no new payments arrive; then what publishes; last the workers (all other roles)."""
_LOG_LIMIT_BYTES = 64 * 2**20
_READ_BYTES = 256 * 2**10


def roles(path: Path = ROOT / "Procfile") -> dict[str, str]:
    """Return each role's command."""
    return dict(parse_procfile(path.read_text()).processes)


def queues(command: str) -> list[str]:
    """Return the queues that a worker's command names with -Q."""
    found = re.search(r"\s-Q\s+(\S+)", command)
    return found[1].split(",") if found else []


def stop_order(names: Iterable[str]) -> list[list[str]]:
    """Return the roles in groups, in the order in which the groups are stopped."""
    present = list(names)
    groups = [[name for name in group if name in present] for group in _STOP_FIRST]
    known = {name for group in _STOP_FIRST for name in group}
    return [*groups, [name for name in present if name not in known]]


def start(stack: Layout, name: str, command: str, env: dict[str, str]) -> Unit:
    """Start a role. ``exec`` replaces the shell with the role, so that signals reach the role."""
    limit = _WORKER_LIMIT_SECONDS if queues(command) else _LIMIT_SECONDS

    def launch() -> Managed:
        shell = ["/bin/sh", "-c", f"exec {command}"]
        return spawn(stack, name, shell, env=env, stopping=Stopping(limit_seconds=limit))

    (stack.logs / f"{name}.log").write_bytes(b"")
    return Unit.launched(name, launch)


@dataclass
class Follower:
    """Shows new lines of the roles' logs, each with the name of its role, like ``honcho start``."""

    stack: Layout
    names: list[str]
    _positions: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._printer = Printer(sys.stdout, width=max(map(len, self.names), default=0))
        self._colours = dict(zip(self.names, get_colours(), strict=False))
        for name in self.names:
            self._positions[name] = self._log(name).stat().st_size

    def _log(self, name: str) -> Path:
        return self.stack.logs / f"{name}.log"

    def show(self) -> None:
        """Print the complete lines since the last call; truncate a log that is too large."""
        for name in self.names:
            with self._log(name).open("rb") as log:
                log.seek(self._positions[name])
                lines, newline, _ = log.read(_READ_BYTES).rpartition(b"\n")
            self._positions[name] += len(lines) + len(newline)
            for line in lines.splitlines():
                now = datetime.datetime.now().astimezone()
                message = Message(type="line", data=line, time=now, name=name, colour=self._colours[name])
                with contextlib.suppress(OSError):  # the terminal may be closed
                    self._printer.write(message)
            if self._positions[name] > _LOG_LIMIT_BYTES:
                with self._log(name).open("r+b") as log:
                    log.truncate(0)
                self._positions[name] = 0
