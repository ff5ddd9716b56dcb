"""Start processes, record them in pid files, and stop them, including those that an earlier start left behind."""

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
"""psutil derives start times from the boot time, which changes a little when the clock is set."""
STRAY_LIMIT_SECONDS = 5.0
REAP_LIMIT_SECONDS = 2.0
_POLL_SECONDS = 0.05
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Stopping:
    """The signal that stops a process, and the time until it is killed."""

    by: signal.Signals = signal.SIGTERM
    limit_seconds: float = 30.0
    repeat_seconds: float = 1000.0
    """Time until the signal is sent again, for servers that ignore it while they start."""


@dataclass(frozen=True)
class Managed:
    """A process that this stack started. psutil compares start times, so a reused pid is not mistaken for it."""

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
        """Return the status of a child that ended; None while it runs, or if it is not a child."""
        if isinstance(self.process, psutil.Popen):
            status: int | None = self.process.poll()
            return status
        return None


@dataclass
class Unit:
    """A server or role of the stack: how to start it, and its current process."""

    name: str
    launch: Callable[[], Managed]
    managed: Managed

    @classmethod
    def launched(cls, name: str, launch: Callable[[], Managed]) -> "Unit":
        return cls(name, launch, launch())

    def relaunch(self) -> None:
        self.managed = self.launch()

    def pids(self) -> list[int]:
        """Return the pids of the leader and then of its descendants."""
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
    """Start a process in a separate session and write its pid file.

    A terminal sends Ctrl-C to its whole foreground group. In the same session, the databases would stop first, and
    Celery's children would be interrupted during a task. The output goes to a file and not to a pipe, because a role
    would die with the reader of its pipe.
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
    """Return the processes that an earlier start left behind, by name; delete the pid files of ended ones."""
    found = {}
    for pid_file in sorted(stack.pids.glob("*.json")):
        managed = _recorded(stack, pid_file)
        if managed is None:
            pid_file.unlink(missing_ok=True)
        else:
            found[managed.name] = managed
    return found


def _recorded(stack: Layout, pid_file: Path) -> Managed | None:
    """Return the process of a pid file, or None if that process has ended."""
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
    """Return whether this stack started the process.

    Its environment says so, or its arguments, because PostgreSQL overwrites its environment.
    """
    with contextlib.suppress(psutil.Error):
        if process.environ().get(MARKER) == str(stack.home):
            return True
    with contextlib.suppress(psutil.Error):
        return os.path.realpath(stack.postgres_data) in process.cmdline()
    return False


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends (Linux: PR_SET_CHILD_SUBREAPER, prctl(2)).

    In a container whose init does not reap, they would remain as zombies.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(own: Iterable[int] = (), limit_seconds: float = 0.0) -> None:
    """Reap adopted processes that end within the limit; other code waits for the children in ``own``."""
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
    """Return every process with this stack's marker, but not this process and its parents."""
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
    """Stop processes together. Each leader stops its own children; a group that does not end in time is killed."""
    group = list(group)
    running = [managed for managed in group if managed.alive()]
    for managed in running:
        info(f"stopping {managed.name}")
        _signal(managed)
    started = time.monotonic()
    for managed in running:
        _wait(managed, started + managed.stopping.limit_seconds)
        if managed.alive():
            info(f"{managed.name} did not stop within {managed.stopping.limit_seconds:.0f} s: killing it")
            with contextlib.suppress(psutil.Error, ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(managed.pid, signal.SIGKILL)  # a session leader also leads the process group
                managed.process.wait(STRAY_LIMIT_SECONDS)
    for managed in group:
        managed.pid_file.unlink(missing_ok=True)


def _signal(managed: Managed) -> None:
    with contextlib.suppress(psutil.Error):
        managed.process.send_signal(managed.stopping.by)


def _wait(managed: Managed, deadline: float) -> None:
    """Return when the process has ended, at the latest at the deadline (monotonic seconds).

    It polls, because the zombie of a process that is not a child keeps its pid until init reaps it.
    """
    repeat = time.monotonic() + managed.stopping.repeat_seconds
    while managed.alive() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        if time.monotonic() > repeat:
            _signal(managed)
            repeat += managed.stopping.repeat_seconds
    managed.exit_status()  # reaps a child


def kill_strays(stack: Layout, keep: Iterable[Managed] = ()) -> None:
    """Stop processes that have lost their leader, such as the children of a killed worker."""
    kept = set()
    for managed in keep:
        with contextlib.suppress(psutil.Error):
            kept |= {managed.pid, *(child.pid for child in managed.process.children(recursive=True))}
    found_strays = [process for process in strays(stack) if process.pid not in kept]
    for process in found_strays:
        with contextlib.suppress(psutil.Error):
            info(f"stopping the stray process {process.pid} ({' '.join(process.cmdline())[:60]})")
            process.terminate()
    _, remaining = psutil.wait_procs(found_strays, timeout=STRAY_LIMIT_SECONDS)
    for process in remaining:
        with contextlib.suppress(psutil.Error):
            process.kill()
