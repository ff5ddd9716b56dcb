"""``make test``, ``unit``, ``chaos`` and ``cluster``: each with fresh data, in its own folder, on its own ports."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from devstack import services, stackfile, supervisor, waiting
from devstack.bootstrap import ROOT
from devstack.servers import server_users
from devstack.settings import (
    CHAOS_DIR,
    CHAOS_PORT_BASE,
    CLUSTER_DIR,
    CLUSTER_PORT_BASE,
    TEST_DIR,
    TEST_PORT_BASE,
    Layout,
    environment,
    layout,
)
from devstack.supervisor import Stack
from devstack.terminal import DevstackError, info, print_line

_SUITE_LIMIT_SECONDS = 40 * 60
_UNIT_LIMIT_SECONDS = 10 * 60
_INTERRUPT_LIMIT_SECONDS = 60
_STOP_LIMIT_SECONDS = 240
"""Time in which the supervisor of the second stack stops it in order."""
_POLL_SECONDS = 0.2
_STACK_TESTS, _FAULT_TESTS = "tests/end_to_end", "tests/end_to_end/faults"
_FAULTS_PORT_OFFSET = 20
_WORKERS = 3
"""Processes of pytest-xdist for the tests that do not drive a stack. They spend most of their time waiting."""
_IN_PARALLEL = ("-n", str(_WORKERS), "--dist", "loadfile", "--no-loadscope-reorder")
_UNIT_MARK = "mark.unit"
_OWNED = "made-by-make-test"
SETTINGS = {
    "GATEWAY_TEST_TOKENS": "1",
    "RETRY_BACKOFF_SECONDS": "1",
    "RETRY_BACKOFF_MAX_SECONDS": "1",
    "MESSAGE_TTL_SECONDS": "14",
    "SWEEP_INTERVAL_SECONDS": "2",
    "STUCK_AFTER_SECONDS": "18",
    "PROVIDER_TIMEOUT_SECONDS": "2",
    "DATABASE_TIMEOUT_SECONDS": "4",
    "AUTH_RATE_LIMIT_PER_SECOND": "1000",
    "AUTH_RATE_LIMIT_BURST": "1000",
    "LOG_LEVEL": "INFO",
}
"""Settings of the roles of a test stack. Delays are short, so that tests wait as little as possible."""
_NOT_FOR_TESTS = ("DATABASE_URL", "DATABASE_DIRECT_URL", "RABBITMQ_URL", "BROKER_URL", "RABBITMQ_MANAGEMENT_URL")
"""Tests delete data, so they use only the servers of TEST_DATABASE_URL and so on, never those of a running gateway."""

CHAOS_SETTINGS = SETTINGS | {
    "PROVIDERS": "sandbox",
    "PROVIDER_TIMEOUT_SECONDS": "3",
    "MESSAGE_TTL_SECONDS": "25",
    "SWEEP_INTERVAL_SECONDS": "5",
    "STUCK_AFTER_SECONDS": "30",
    "LOG_FORMAT": "json",
}
CHAOS_DEFAULTS = {"SEED": "", "PAYMENTS": "2000", "FAULTS": "20"}


@dataclass(frozen=True)
class Run:
    """A Python command. `name` is that of its log, and of its database and virtual host."""

    arguments: list[str]
    name: str = "tests"
    env: Mapping[str, str] | None = None
    """Its environment instead of that of the stack."""
    stop_limit_seconds: float = _INTERRUPT_LIMIT_SECONDS


def test(arguments: list[str]) -> int:
    """Run pytest with these arguments beside a fresh stack; return its exit status.

    Without arguments, run the whole suite: first the unit tests; then at the same time the tests that drive the stack,
    one after the other, those that inject faults, on a second stack, and all others, in several processes with a
    database and a virtual host each.
    """
    own = layout(TEST_DIR, TEST_PORT_BASE)
    if arguments:
        return _beside_fresh_stack(own, SETTINGS, {}, Run(["-m", "pytest", *arguments]))
    others = ["-m", "not unit", f"--ignore={_STACK_TESTS}", *_IN_PARALLEL]
    runs = [
        Run(["-m", "pytest", *others]),
        Run(["-m", "pytest", _STACK_TESTS, f"--ignore={_FAULT_TESTS}"], "end_to_end"),
        Run(["-m", "devstack", "test", _FAULT_TESTS], "faults", _second_stack(own), _STOP_LIMIT_SECONDS),
    ]
    failed = unit()
    return _beside_fresh_stack(own, SETTINGS, {}, *runs) or failed


def _second_stack(own: Layout) -> dict[str, str]:
    """Return the environment of a supervisor whose stack has another folder, other ports and always its own servers."""
    folder, base = own.home.with_name(f"{own.home.name}-faults"), own.ports.api + _FAULTS_PORT_OFFSET
    caller = {name: value for name, value in environment(dotenv=False).items() if not name.startswith("TEST_")}
    return caller | {"DEV_DIR": str(folder), "DEV_PORT_BASE": str(base)}


def unit(arguments: Sequence[str] = ()) -> int:
    """Run the tests with the mark `unit`, without servers; return pytest's exit status.

    Only the modules that contain the mark are given to pytest, because it imports every module that it is given.
    """
    modules = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [str(module.relative_to(ROOT)) for module in modules if _UNIT_MARK in module.read_text()]
    env = {name: value for name, value in environment(dotenv=False).items() if name != "GATEWAY_STACK"}
    chosen = [name for name in arguments if (ROOT / name.partition("::")[0]).exists()]
    parallel = [] if arguments else ["-n", "2", "--dist", "worksteal"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "unit", *parallel, *arguments, *([] if chosen else marked)]
    info(f"pytest -m unit, {len(chosen or marked)} modules")
    try:
        return subprocess.run(command, check=False, cwd=ROOT, env=env, timeout=_UNIT_LIMIT_SECONDS).returncode
    except subprocess.TimeoutExpired:
        raise DevstackError(f"the unit tests did not end within {_UNIT_LIMIT_SECONDS} s") from None


def chaos() -> int:
    """Inject faults into a fresh stack with a sandbox acquirer, and check what became of the payments."""
    options = [(name, os.environ.get(name) or default) for name, default in CHAOS_DEFAULTS.items()]
    arguments = [f"--{name.lower()}={value}" for name, value in options if value]
    return _beside_stack_with_acquirer(layout(CHAOS_DIR, CHAOS_PORT_BASE), Run(["-m", "tests.chaos", *arguments]))


def cluster() -> int:
    """Stop the nodes of a RabbitMQ cluster one after the other, and check what became of the payments."""
    own = layout(CLUSTER_DIR, CLUSTER_PORT_BASE)
    return _beside_stack_with_acquirer(own, Run(["-m", "tests.cluster"]), clustered=True)


def _beside_stack_with_acquirer(own: Layout, run: Run, *, clustered: bool = False) -> int:
    acquirer = f"python -m gateway.sandbox --port {own.ports.acquirer} --file {shlex.quote(str(own.acquirer_file))}"
    settings = CHAOS_SETTINGS | {"SANDBOX_ACQUIRER_URL": stackfile.acquirer_url(own)}
    return _beside_fresh_stack(own, settings, {"acquirer": acquirer}, run, clustered=clustered)


def _beside_fresh_stack(
    own: Layout, settings: dict[str, str], extra_roles: dict[str, str], *runs: Run, clustered: bool = False
) -> int:
    """Start a fresh stack, run all commands concurrently, and return the first exit status that is not 0."""
    caller = environment(dotenv=False)
    plan = services.Plan.read(caller, prefix="TEST_")
    if clustered:
        plan = replace(plan, broker_url=None, management_url=None, clustered=True)
    for name in _NOT_FOR_TESTS:
        if caller.pop(name, None):
            info(f"the tests ignore {name}; set TEST_{name} to choose a server for them")
    caller |= settings | {"ALERT_WEBHOOK_URL": stackfile.receiver_url(own)}
    _refuse_data_of_others(own)
    with supervisor.supervised(own):
        server_users.delete_data(own)
        own.prepare()
        (own.home / _OWNED).touch()
        with supervisor.running(own, caller, plan, extra_roles) as stack:
            return _run(stack, runs)


def _refuse_data_of_others(own: Layout) -> None:
    """Refuse a folder with data of ``make run``, because a test run deletes all data in its folder."""
    if own.postgres_data.exists() and not (own.home / _OWNED).exists():
        raise DevstackError(f"{own.home} holds data that `make test` did not make; set DEV_DIR to another folder")


def _run(stack: Stack, runs: Sequence[Run]) -> int:
    """Run all commands to their ends. The first writes to the terminal; the output of the others follows at the end."""
    env = {**stack.env, "GATEWAY_STACK": str(stack.layout.stack_file)}
    started: list[tuple[Run, subprocess.Popen[bytes], Path | None]] = []
    deadline = time.monotonic() + _SUITE_LIMIT_SECONDS
    try:
        for run in runs:
            info(" ".join(["python", *run.arguments]))
            log = stack.layout.logs / f"{run.name}.log" if started else None
            own = {**(run.env or env), "GATEWAY_TEST_NAME": run.name}
            process = _started([sys.executable, *run.arguments], own, log)
            started.append((run, process, log))
            stack.helpers.add(process.pid)
        while any(process.poll() is None for _, process, _ in started):
            if time.monotonic() > deadline:
                raise DevstackError(f"the tests did not end within {_SUITE_LIMIT_SECONDS} s")
            stack.watch(restart=True)
            waiting.pause(_POLL_SECONDS)
    finally:
        for run, process, log in started:
            _end(process, run.stop_limit_seconds)
            if log is not None:
                print_line(log.read_text(errors="replace"))
    return next((process.returncode for _, process, _ in started if process.returncode), 0)


def _started(command: list[str], env: dict[str, str], log: Path | None) -> subprocess.Popen[bytes]:
    with open(log, "wb") if log else nullcontext() as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def _end(process: subprocess.Popen[bytes], limit_seconds: float) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)  # pytest then reports what was running
    with suppress(subprocess.TimeoutExpired):
        process.wait(limit_seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
