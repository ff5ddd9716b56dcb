"""Waits with a limit, which a request to stop ends."""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from devstack.bootstrap import ROOT
from devstack.terminal import DevstackError, info

_POLL_SECONDS = 0.05
_requested = threading.Event()
_signal_number = 0


class StopRequested(Exception):
    """The user asked the stack to stop, by Ctrl-C, SIGTERM or a closed terminal."""


def listen_for_stop() -> None:
    """Let signals only set a flag, so that none interrupts a start between the fork and the pid file."""

    def note(number: int, _frame: FrameType | None) -> None:
        global _signal_number
        if _requested.is_set():
            info("already stopping; running tasks are being finished")
            return
        _signal_number = number
        _requested.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)


def stop_status() -> int:
    """Return the exit status after a stop: 0 for Ctrl-C and SIGTERM, the normal ways to stop."""
    return 128 + _signal_number if _signal_number == signal.SIGHUP else 0


def pause(seconds: float = _POLL_SECONDS) -> None:
    """Wait; raise StopRequested as soon as a stop is requested."""
    if _requested.wait(seconds):
        raise StopRequested


def wait_until(condition: Callable[[], bool], limit_seconds: float, otherwise: Callable[[], str]) -> None:
    """Return when ``condition()`` is true; after the limit raise DevstackError with the text of ``otherwise()``."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DevstackError(f"{otherwise()} (waited {limit_seconds:.0f} s)")
        pause()


def run_step(what: str, command: list[str], env: Mapping[str, str], log: Path, limit_seconds: float) -> None:
    """Run a command with its output in ``log``; an error message includes the end of the log."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        wait_until(lambda: process.poll() is not None, limit_seconds, lambda: f"{what} did not end, see {log}")
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
    if process.returncode:
        pause(0)  # if Ctrl-C ended the command, stop instead of reporting a failure
        raise DevstackError(f"{what} failed with status {process.returncode}:\n{tail(log)}")


def tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log, indented, for an error message."""
    with contextlib.suppress(OSError):
        text = log.read_bytes()[-16_000:].decode("utf-8", "replace")
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
    return "    (no output)"
