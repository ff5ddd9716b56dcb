"""Starting processes, remembering them in pid files, and ending them: this start's own and leftovers of the last."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from devstack.bootstrap import ROOT
from devstack.settings import MARKER, Layout
from devstack.terminal import info

CLOCK_TOLERANCE_SECONDS = 2.0
"""psutil derives start times from the boot time, which moves a little when the clock is set."""
STRAY_LIMIT_SECONDS = 5.0
REAP_LIMIT_SECONDS = 2.0
_POLL_SECONDS = 0.05
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Stopping:
    """How a process is asked to end, and how long it may take (seconds) before it is killed."""

    by: signal.Signals = signal.SIGTERM
    limit_seconds: float = 30.0
    repeat_seconds: float = 1000.0
    """Pause before the signal is sent again, for servers that drop one while they boot."""


@dataclass(frozen=True)
class Managed:
    """A process that this stack started, seen through psutil, so that a reused pid is never mistaken for it."""

    name: str
    process: psutil.Process
    stopping: Stopping
    pid_file: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        if isinstance(self.process, psutil.Popen):
            return self.exit_status() is None
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def exit_status(self) -> int | None:
        """Return the status of a child that ended, None while it runs (or when it is not a child)."""
        if isinstance(self.process, psutil.Popen):
            status: int | None = self.process.poll()
            return status
        return None


@dataclass
class Unit:
    """Something that the stack keeps running: how it is started, and the process that runs now."""

    name: str
    launch: Callable[[], Managed]
    managed: Managed

    @classmethod
    def launched(cls, name: str, launch: Callable[[], Managed]) -> "Unit":
        return cls(name, launch, launch())

    def relaunch(self) -> None:
        self.managed = self.launch()

    def pids(self) -> list[int]:
        """Return the leader's pid, then those of the processes below it."""
        with contextlib.suppress(psutil.Error):
            children = self.managed.process.children(recursive=True)
            return [self.managed.pid, *(child.pid for child in children)]
        return [self.managed.pid]


def spawn(
    stack: Layout,
    name: str,
    command: list[str],
    *,
    env: Mapping[str, str],
    stopping: Stopping,
    log: Path | None = None,
) -> Managed:
    """Start a process in a session of its own and write its pid file.

    A session of its own because a terminal sends Ctrl-C to its whole foreground group: the databases would stop
    first, and Celery's children would be interrupted in mid-task. The output goes to a file and not through a pipe:
    whoever reads a pipe may be killed, and then the role dies of it as well.
    """
    with (log or stack.logs / f"{name}.log").open("ab") as output:
        process = psutil.Popen(
            command,
            cwd=ROOT,
            env={**env, MARKER: str(stack.home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    managed = Managed(name, process, stopping, stack.pids / f"{name}.json")
    _write_pid_file(managed)
    return managed


def _write_pid_file(managed: Managed) -> None:
    record = {
        "pid": managed.pid,
        "started": managed.process.create_time(),
        "signal": managed.stopping.by.value,
        "limit_seconds": managed.stopping.limit_seconds,
        "repeat_seconds": managed.stopping.repeat_seconds,
    }
    temporary = managed.pid_file.with_suffix(".new")
    temporary.write_text(json.dumps(record))
    temporary.replace(managed.pid_file)


def leftovers(stack: Layout) -> dict[str, Managed]:
    """Return what an earlier start of this stack left running, by name; forget pid files of what is gone."""
    found = {}
    for pid_file in sorted(stack.pids.glob("*.json")):
        managed = _remembered(stack, pid_file)
        if managed is None:
            pid_file.unlink(missing_ok=True)
        else:
            found[managed.name] = managed
    return found


def _remembered(stack: Layout, pid_file: Path) -> Managed | None:
    """Return the process of a pid file if it is still the one that was started, else None."""
    try:
        record = json.loads(pid_file.read_text())
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["started"]) <= CLOCK_TOLERANCE_SECONDS
        stopping = Stopping(signal.Signals(record["signal"]), record["limit_seconds"], record["repeat_seconds"])
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    managed = Managed(pid_file.stem, process, stopping, pid_file)
    return managed if same and managed.alive() and belongs(stack, process) else None


def belongs(stack: Layout, process: psutil.Process) -> bool:
    """Whether this stack started the process: by its environment, or (PostgreSQL wipes that) by its arguments."""
    with contextlib.suppress(psutil.Error):
        if process.environ().get(MARKER) == str(stack.home):
            return True
    with contextlib.suppress(psutil.Error):
        return os.path.realpath(stack.postgres_data) in process.cmdline()
    return False


def adopt_orphans() -> None:
    """Become the parent of whatever loses its own below this process (Linux; see PR_SET_CHILD_SUBREAPER, prctl(2)).

    In a container without a reaping init they would stay in the process table as zombies.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(own: Iterable[int] = (), limit_seconds: float = 0.0) -> None:
    """Take the exit statuses of adopted processes that ended, for that long; ``own`` are children awaited elsewhere."""
    kept = set(own)
    deadline = time.monotonic() + limit_seconds
    while orphans := [child for child in psutil.Process().children() if child.pid not in kept]:
        for orphan in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan.pid, os.WNOHANG)
        if time.monotonic() >= deadline:
            return
        time.sleep(_POLL_SECONDS)


def strays(stack: Layout) -> list[psutil.Process]:
    """Return every process that carries this stack's mark; none of them is this process or one of its parents."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    uid = os.geteuid()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            readable = uid == 0 or process.uids().real == uid
            if readable and process.pid not in own and process.environ().get(MARKER) == str(stack.home):
                found.append(process)
    return found


def stop(group: Iterable[Managed]) -> None:
    """End processes together: only the leader is asked, its children it ends itself; who does not is killed."""
    group = list(group)
    asked = [managed for managed in group if managed.alive()]
    for managed in asked:
        info(f"stopping {managed.name}")
        _signal(managed)
    started = time.monotonic()
    for managed in asked:
        _wait(managed, started + managed.stopping.limit_seconds)
        if managed.alive():
            info(f"{managed.name} did not stop within {managed.stopping.limit_seconds:.0f} s: killing it")
            with contextlib.suppress(psutil.Error, ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(managed.pid, signal.SIGKILL)  # the leader of its session leads the group too
                managed.process.wait(STRAY_LIMIT_SECONDS)
    for managed in group:
        managed.pid_file.unlink(missing_ok=True)


def _signal(managed: Managed) -> None:
    with contextlib.suppress(psutil.Error):
        managed.process.send_signal(managed.stopping.by)


def _wait(managed: Managed, deadline: float) -> None:
    """Return when the process has ended, at the latest at the deadline (monotonic seconds).

    Asks again and again rather than to wait for the pid to go: a leftover's zombie stays until init reaps it.
    """
    repeat = time.monotonic() + managed.stopping.repeat_seconds
    while managed.alive() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        if time.monotonic() > repeat:
            _signal(managed)
            repeat += managed.stopping.repeat_seconds
    managed.exit_status()  # reaps a child


def kill_strays(stack: Layout, but: Iterable[Managed] = ()) -> None:
    """End what no leader answers for any more, such as the children of a killed worker."""
    kept = set()
    for managed in but:
        with contextlib.suppress(psutil.Error):
            kept |= {managed.pid, *(child.pid for child in managed.process.children(recursive=True))}
    doomed = [process for process in strays(stack) if process.pid not in kept]
    for process in doomed:
        with contextlib.suppress(psutil.Error):
            info(f"ending the stray process {process.pid} ({' '.join(process.cmdline())[:60]})")
            process.terminate()
    _, stubborn = psutil.wait_procs(doomed, timeout=STRAY_LIMIT_SECONDS)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
