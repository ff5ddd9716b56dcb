"""``make test``: the suite beside a stack of its own, on fresh data, in its own folder and on its own ports."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
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
_INTERRUPT_LIMIT_SECONDS = 60
_TICK_SECONDS = 0.2
_STACK_TESTS = "tests/end_to_end"
_OWNED = "made-by-make-test"
SETTINGS = {
    "GATEWAY_TEST_TOKENS": "1",
    "RETRY_BACKOFF_SECONDS": "1",
    "RETRY_BACKOFF_MAX_SECONDS": "1",
    "MESSAGE_TTL_MS": "14000",
    "SWEEP_INTERVAL_SECONDS": "2",
    "STUCK_AFTER_SECONDS": "18",
    "PROVIDER_TIMEOUT_SECONDS": "2",
    "DATABASE_TIMEOUT_SECONDS": "4",
    "AUTH_RATE_LIMIT_PER_SECOND": "1000",
    "AUTH_RATE_LIMIT_BURST": "1000",
    "LOG_LEVEL": "INFO",
}
"""What the roles of a test stack are told, all of it here: short delays, so that a test waits for no clock."""
_NOT_FOR_TESTS = ("DATABASE_URL", "DATABASE_DIRECT_URL", "RABBITMQ_URL", "BROKER_URL", "RABBITMQ_MANAGEMENT_URL")
"""Tests forget data: they never touch the servers of a running gateway, only those of TEST_DATABASE_URL and so on."""


CHAOS_SETTINGS = SETTINGS | {
    "PROVIDERS": "sandbox",
    "PROVIDER_TIMEOUT_SECONDS": "3",
    "MESSAGE_TTL_MS": "25000",
    "SWEEP_INTERVAL_SECONDS": "5",
    "STUCK_AFTER_SECONDS": "30",
    "LOG_FORMAT": "json",
}
CHAOS_DEFAULTS = {"SEED": "", "PAYMENTS": "2000", "FAULTS": "20"}


def test(arguments: list[str]) -> int:
    """Run pytest with these arguments beside a fresh stack; return its exit status.

    Without arguments that is the whole suite, in two processes: the tests that drive the stack run one after the other,
    and the others beside them, with a database and a virtual host of their own.
    """
    own, pytest = layout(TEST_DIR, TEST_PORT_BASE), ["-m", "pytest"]
    if arguments:
        return _beside_fresh_stack(own, SETTINGS, {}, [*pytest, *arguments])
    return _beside_fresh_stack(own, SETTINGS, {}, [*pytest, f"--ignore={_STACK_TESTS}"], [*pytest, _STACK_TESTS])


def chaos() -> int:
    """Let faults loose on a fresh stack with a sandbox acquirer, and judge what is left of the payments."""
    options = [(name, os.environ.get(name) or default) for name, default in CHAOS_DEFAULTS.items()]
    arguments = [f"--{name.lower()}={value}" for name, value in options if value]
    return _beside_stack_with_acquirer(layout(CHAOS_DIR, CHAOS_PORT_BASE), ["-m", "tests.chaos", *arguments])


def cluster() -> int:
    """Take the nodes of a RabbitMQ cluster away one after the other, and judge what is left of the payments."""
    own = layout(CLUSTER_DIR, CLUSTER_PORT_BASE)
    return _beside_stack_with_acquirer(own, ["-m", "tests.cluster"], clustered=True)


def _beside_stack_with_acquirer(own: Layout, command: list[str], *, clustered: bool = False) -> int:
    acquirer = f"python -m gateway.sandbox --port {own.ports.acquirer} --file {shlex.quote(str(own.acquirer_file))}"
    told = CHAOS_SETTINGS | {"SANDBOX_ACQUIRER_URL": stackfile.acquirer_url(own)}
    return _beside_fresh_stack(own, told, {"acquirer": acquirer}, command, clustered=clustered)


def _beside_fresh_stack(
    own: Layout, told: dict[str, str], further_roles: dict[str, str], *commands: list[str], clustered: bool = False
) -> int:
    """Run Python commands at once beside a stack of their own, and return the first exit status that is not 0."""
    caller = environment(dotenv=False)
    plan = services.Plan.read(caller, prefix="TEST_")
    if clustered:
        plan = replace(plan, broker_url=None, management_url=None, clustered=True)
    for name in _NOT_FOR_TESTS:
        if caller.pop(name, None):
            info(f"{name} is not used by the tests; TEST_{name} would be")
    caller |= told | {"ALERT_WEBHOOK_URL": stackfile.receiver_url(own)}
    _take_possession(own)
    with supervisor.supervised(own):
        server_users.forget(own)
        own.prepare()
        (own.home / _OWNED).touch()
        with supervisor.running(own, caller, plan, further_roles) as stack:
            return _run(stack, commands)


def _take_possession(own: Layout) -> None:
    """Refuse a folder that holds the data of ``make run``: a run of the tests forgets it."""
    if own.postgres_data.exists() and not (own.home / _OWNED).exists():
        raise DevstackError(f"{own.home} holds data that `make test` did not make; set DEV_DIR to another folder")


def _run(stack: Stack, commands: Sequence[list[str]]) -> int:
    """Run all commands to their ends. The first one writes to the terminal, the others' output follows."""
    env = {**stack.env, "GATEWAY_STACK": str(stack.layout.stack_file)}
    started: list[tuple[subprocess.Popen[bytes], Path | None]] = []
    deadline = time.monotonic() + _SUITE_LIMIT_SECONDS
    try:
        for number, command in enumerate(commands):
            info(" ".join(["python", *command]))
            log = stack.layout.logs / f"suite-{number}.log" if number else None
            own = {"GATEWAY_TEST_NAME": f"suite_{number}"} if number else {}
            started.append((_started([sys.executable, *command], env | own, log), log))
            stack.helpers.add(started[-1][0].pid)
        while any(suite.poll() is None for suite, _ in started):
            if time.monotonic() > deadline:
                raise DevstackError(f"the tests did not end within {_SUITE_LIMIT_SECONDS} s")
            stack.watch(restart=True)
            waiting.pause(_TICK_SECONDS)
    finally:
        for suite, log in started:
            _end(suite)
            if log is not None:
                print_line(log.read_text(errors="replace"))
    return next((suite.returncode for suite, _ in started if suite.returncode), 0)


def _started(command: list[str], env: dict[str, str], log: Path | None) -> subprocess.Popen[bytes]:
    with open(log, "wb") if log else nullcontext() as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def _end(suite: subprocess.Popen[bytes]) -> None:
    if suite.poll() is not None:
        return
    suite.send_signal(signal.SIGINT)  # pytest tells what it was doing
    with suppress(subprocess.TimeoutExpired):
        suite.wait(_INTERRUPT_LIMIT_SECONDS)
    if suite.poll() is None:
        os.killpg(suite.pid, signal.SIGKILL)
        suite.wait()
