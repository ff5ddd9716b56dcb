"""Starting processes, remembering them in pid files, and ending them: this start's own and leftovers of the last."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from devstack.bootstrap import ROOT
from devstack.console import say
from devstack.settings import MARKER, Layout

CLOCK_TOLERANCE_SECONDS = 2.0
"""psutil derives start times from the boot time, which moves a little when the clock is set."""
STRAY_LIMIT_SECONDS = 5.0


@dataclass(frozen=True)
class Stopping:
    """How a process is asked to end, and how long it may take (seconds) before it is killed."""

    by: signal.Signals = signal.SIGTERM
    limit_seconds: float = 30.0


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
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def exit_status(self) -> int | None:
        """Return the status of a child that ended, None while it runs (or when it is not a child)."""
        if isinstance(self.process, psutil.Popen):
            return self.process.poll()
        return None


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
        stopping = Stopping(signal.Signals(record["signal"]), record["limit_seconds"])
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    managed = Managed(pid_file.stem, process, stopping, pid_file)
    return managed if same and managed.alive() and belongs(stack, process) else None


def belongs(stack: Layout, process: psutil.Process) -> bool:
    """Whether this stack started the process: by its environment, or (PostgreSQL wipes that) by its arguments."""
    with contextlib.suppress(psutil.Error):
        if process.environ().get(MARKER) == str(stack.home):
            return True
    with contextlib.suppress(psutil.Error):
        return str(stack.postgres_data) in process.cmdline()
    return False


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
    asked = [managed for managed in group if managed.alive()]
    for managed in asked:
        say(f"stopping {managed.name}")
        with contextlib.suppress(psutil.Error):
            managed.process.send_signal(managed.stopping.by)
    started = time.monotonic()
    for managed in asked:
        limit = max(0.0, started + managed.stopping.limit_seconds - time.monotonic())
        with contextlib.suppress(psutil.Error, subprocess.TimeoutExpired):
            managed.process.wait(limit)
        if managed.alive():
            say(f"{managed.name} did not stop within {managed.stopping.limit_seconds:.0f} s: killing it")
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                os.killpg(managed.pid, signal.SIGKILL)  # the leader of its session leads the group too
    for managed in group:
        managed.pid_file.unlink(missing_ok=True)


def kill_strays(stack: Layout, but: Iterable[Managed] = ()) -> None:
    """End what no leader answers for any more, such as the children of a killed worker."""
    kept = {managed.pid for managed in but}
    sessions = kept.copy()
    doomed = []
    for process in strays(stack):
        with contextlib.suppress(ProcessLookupError):
            if process.pid not in kept and os.getsid(process.pid) not in sessions:
                doomed.append(process)
    for process in doomed:
        with contextlib.suppress(psutil.Error):
            say(f"ending the stray process {process.pid} ({' '.join(process.cmdline())[:60]})")
            process.terminate()
    _, stubborn = psutil.wait_procs(doomed, timeout=STRAY_LIMIT_SECONDS)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
