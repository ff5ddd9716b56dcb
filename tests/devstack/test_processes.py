"""Pid files, processes that an earlier start left behind, and how processes are stopped."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from devstack import processes, services
from devstack.processes import Managed, Stopping
from devstack.settings import MARKER, Layout, Ports
from devstack.terminal import DevstackError
from devstack.waiting import wait_until

pytestmark = pytest.mark.unit

SLEEPER = [sys.executable, "-c", "import time; time.sleep(300)"]


@pytest.fixture
def own(tmp_path: Path) -> Layout:
    found = Layout(tmp_path, tmp_path / "cache", Ports.counted_from(20000))
    found.prepare()
    return found


def started(own: Layout, name: str, command: list[str], stopping: Stopping | None = None) -> Managed:
    return processes.spawn(own, name, command, env=dict(os.environ), stopping=stopping or Stopping(limit_seconds=10))


def test_a_process_of_an_earlier_start_is_found_and_stopped(own: Layout) -> None:
    managed = started(own, "relay", SLEEPER)
    assert [found.pid for found in processes.leftovers(own).values()] == [managed.pid]
    services.end_leftovers(own)
    assert managed.exit_status() == -signal.SIGTERM
    assert processes.leftovers(own) == {}


def test_another_program_with_the_same_pid_is_not_stopped(own: Layout) -> None:
    record = {"pid": os.getpid(), "started": psutil.Process().create_time(), "signal": 15, "limit_seconds": 1}
    pid_file = own.pids / "relay.json"
    pid_file.write_text(json.dumps(record | {"repeat_seconds": 1}))
    assert processes.leftovers(own) == {}  # this process has no marker of the stack
    assert not pid_file.exists()


def test_a_process_with_the_same_pid_but_another_start_time_is_not_stopped(own: Layout) -> None:
    managed = started(own, "relay", SLEEPER)
    try:
        record = json.loads(managed.pid_file.read_text())
        managed.pid_file.write_text(json.dumps(record | {"started": record["started"] - 60}))
        assert processes.leftovers(own) == {}
    finally:
        processes.stop([managed])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_broken_pid_file_is_ignored(own: Layout, text: str) -> None:
    (own.pids / "relay.json").write_text(text)
    assert processes.leftovers(own) == {}


def test_only_the_leader_gets_the_signal(own: Layout, tmp_path: Path) -> None:
    """The signal would end the child at once; the leader lets it finish, as a Celery worker does."""
    done = tmp_path / "done"
    child = f"import time; time.sleep(1); open({str(done)!r}, 'w').close()"
    leader = (
        "import signal, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(child.wait()))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    managed = started(own, "worker", [sys.executable, "-c", leader])
    log = own.logs / "worker.log"
    wait_until(lambda: log.read_text() == "ready\n", 10, log.read_text)
    processes.stop([managed])
    assert done.exists()
    assert managed.exit_status() == 0


def test_a_process_that_does_not_stop_in_time_is_killed(own: Layout) -> None:
    ignoring = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", f"while True:\n    {ignoring}"]
    managed = started(own, "flower", command, Stopping(limit_seconds=0.2))
    log = own.logs / "flower.log"
    wait_until(lambda: "ready" in log.read_text(), 10, log.read_text)
    processes.stop([managed])
    assert managed.exit_status() == -signal.SIGKILL


def test_the_children_of_a_killed_worker_are_stopped(own: Layout) -> None:
    leader = (
        "import signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    managed = started(own, "worker", [sys.executable, "-c", leader])
    log = own.logs / "worker.log"
    wait_until(lambda: log.read_text().endswith("\n"), 10, log.read_text)
    child = psutil.Process(int(log.read_text()))
    assert child.environ()[MARKER] == str(own.home)
    managed.process.kill()
    managed.process.wait(5)
    services.end_leftovers(own)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_error_about_a_port_in_use_names_the_port_and_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(DevstackError, match=rf"port {port}, needed for the API, .*DEV_PORT_BASE"):
            services.refuse_taken_ports({"the API": port})
