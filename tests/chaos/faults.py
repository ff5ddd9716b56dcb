"""The faults: each affects real processes or servers for some time and is then undone."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote

import psycopg
import requests

from devstack.terminal import DevstackError
from tests.chaos.stack import ChaosStack

WORKERS = ("worker-route", "worker-settle", "worker-refunds", "worker-webhooks", "worker-operations")
PAYMENT_WORKERS = WORKERS[:2]
CONNECTIONS_MAX = 250
REACH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. A `database` fault excuses refusals and delays of requests."""

    name: str
    begin: Callable[[ChaosStack, random.Random, ExitStack], None]
    """Causes the fault, and adds what undoes it to the exit stack."""
    seconds: tuple[float, float]
    database: bool = False
    broker: bool = False


def _kill_child(stack: ChaosStack, rng: random.Random, _undo: ExitStack) -> None:
    children = stack.children(rng.choice(PAYMENT_WORKERS))
    if children:
        _kill(rng.choice(children))


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_parent(role: str | None = None) -> Callable[[ChaosStack, random.Random, ExitStack], None]:
    def begin(stack: ChaosStack, rng: random.Random, _undo: ExitStack) -> None:
        _kill(stack.leader(role or rng.choice(PAYMENT_WORKERS)))

    return begin


def _kill_group(stack: ChaosStack, rng: random.Random, _undo: ExitStack) -> None:
    _kill_all(stack, rng.choice(WORKERS))


def _kill_all(stack: ChaosStack, role: str) -> None:
    for pid in (stack.leader(role), *stack.children(role)):
        _kill(pid)


def _kill_worker(role: str) -> Callable[[ChaosStack, random.Random, ExitStack], None]:
    """Kill the children, the parent (its orphans continue), or both at once."""

    def begin(stack: ChaosStack, rng: random.Random, _undo: ExitStack) -> None:
        match rng.choice(("child", "parent", "group")):
            case "child":
                for child in stack.children(role):
                    _kill(child)
            case "parent":
                _kill(stack.leader(role))
            case _:
                _kill_all(stack, role)

    return begin


def _freeze_worker(stack: ChaosStack, rng: random.Random, undo: ExitStack) -> None:
    """Freeze a worker or one of its children, sometimes for longer than a lease."""
    role = rng.choice(WORKERS)
    children = stack.children(role)
    pids = [rng.choice(children)] if children and rng.random() < 0.5 else [stack.leader(role), *children]
    _freeze(pids, undo)


def _kill_api(stack: ChaosStack, rng: random.Random, _undo: ExitStack) -> None:
    _kill(rng.choice([stack.leader("api"), *stack.children("api")]))


def _terminate(stack: ChaosStack, rng: random.Random, _undo: ExitStack) -> None:
    _kill(stack.leader(rng.choice((*WORKERS, "relay", "api", "beat"))), signal.SIGTERM)


UNREACHABLE = (requests.RequestException, psycopg.Error, DevstackError)
"""Errors of a server that another fault has stopped; its restart undoes everything."""


def _close_connections(stack: ChaosStack, _rng: random.Random, _undo: ExitStack) -> None:
    with suppress(*UNREACHABLE):
        for connection in stack.management("GET", "connections").json():
            stack.management("DELETE", f"connections/{quote(connection['name'], safe='')}")


def _down(role: str, number: signal.Signals) -> Callable[[ChaosStack, random.Random, ExitStack], None]:
    def begin(stack: ChaosStack, _rng: random.Random, undo: ExitStack) -> None:
        undo.enter_context(stack.held(role))
        _kill(stack.leader(role), number)

    return begin


def _frozen(role: str) -> Callable[[ChaosStack, random.Random, ExitStack], None]:
    def begin(stack: ChaosStack, _rng: random.Random, undo: ExitStack) -> None:
        _freeze([stack.leader(role), *stack.children(role)], undo)

    return begin


def _freeze(pids: Iterable[int], undo: ExitStack) -> None:
    for pid in pids:
        undo.callback(_kill, pid, signal.SIGCONT)
        _kill(pid, signal.SIGSTOP)


def _memory_alarm(stack: ChaosStack, _rng: random.Random, undo: ExitStack) -> None:
    def watermark(size: str) -> None:
        with suppress(*UNREACHABLE):
            stack.rabbitmqctl("set_vm_memory_high_watermark", "absolute", size)

    undo.callback(watermark, "1GB")
    watermark("1MB")


_END_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()
"""


def _terminate_backends(stack: ChaosStack, _rng: random.Random, _undo: ExitStack) -> None:
    with suppress(psycopg.Error), stack.database() as connection:
        connection.execute(_END_SESSIONS)


def _take_all_connections(stack: ChaosStack, _rng: random.Random, undo: ExitStack) -> None:
    for _ in range(CONNECTIONS_MAX):
        try:
            undo.enter_context(stack.database())
        except psycopg.Error:
            return


def _set_behaviour(stack: ChaosStack, how: dict[str, object]) -> None:
    """Set the acquirer's behaviour; repeat while it is unreachable."""
    deadline = time.monotonic() + REACH_SECONDS
    while time.monotonic() < deadline:
        with suppress(*UNREACHABLE):
            stack.control_acquirer(how)
            return
        time.sleep(0.05)


def _acquirer(mode: str) -> Callable[[ChaosStack, random.Random, ExitStack], None]:
    def begin(stack: ChaosStack, rng: random.Random, undo: ExitStack) -> None:
        undo.callback(_set_behaviour, stack, {"mode": "normal"})
        calls = rng.choice(("writes", "all"))  # all: status queries too
        _set_behaviour(stack, {"mode": mode, "probability": 0.7, "calls": calls, "seed": rng.randrange(2**31)})

    return begin


FAULTS = (
    Fault("kill a pool child", _kill_child, (0, 2)),
    Fault("kill a worker's parent", _kill_parent(), (0, 2)),
    Fault("kill a worker's group", _kill_group, (0, 2)),
    Fault("kill the refund worker", _kill_worker("worker-refunds"), (0, 2)),
    Fault("kill the webhook worker", _kill_worker("worker-webhooks"), (0, 2)),
    Fault("worker frozen", _freeze_worker, (3, 14)),
    Fault("refund worker frozen", _frozen("worker-refunds"), (3, 14)),
    Fault("webhook worker frozen", _frozen("worker-webhooks"), (3, 14)),
    Fault("kill the relay", _kill_parent("relay"), (0, 2)),
    Fault("kill the monitor", _kill_parent("worker-operations"), (0, 2)),
    Fault("kill beat", _kill_parent("beat"), (0, 2)),
    Fault("kill an API process", _kill_api, (0, 2)),
    Fault("stop a role gracefully", _terminate, (0, 2)),
    Fault("broker closes connections", _close_connections, (0, 1), broker=True),
    Fault("broker stopped", _down("rabbitmq", signal.SIGTERM), (1, 6), broker=True),
    Fault("broker killed", _down("rabbitmq", signal.SIGKILL), (1, 6), broker=True),
    Fault("broker memory alarm", _memory_alarm, (3, 10), broker=True),
    Fault("broker frozen", _frozen("rabbitmq"), (3, 12), broker=True),
    Fault("database restarted", _down("postgresql", signal.SIGINT), (0, 4), database=True),
    Fault("database crashed", _down("postgresql", signal.SIGQUIT), (0, 4), database=True),
    Fault("database frozen", _frozen("postgresql"), (2, 8), database=True),
    Fault("database connections ended", _terminate_backends, (0, 1), database=True),
    Fault("database out of connections", _take_all_connections, (2, 6), database=True),
    Fault("acquirer drops responses", _acquirer("drop_after"), (2, 6)),
    Fault("acquirer errs after charging", _acquirer("error_after"), (2, 6)),
    Fault("acquirer refuses", _acquirer("error_before"), (2, 6)),
    Fault("acquirer returns garbage", _acquirer("garbage"), (2, 6)),
    Fault("acquirer flaps", _acquirer("flap"), (2, 6)),
    Fault("acquirer killed", _down("acquirer", signal.SIGKILL), (1, 4)),
)


@dataclass(frozen=True, slots=True)
class Episode:
    """Faults that begin together, and their duration."""

    faults: tuple[Fault, ...]
    seconds: float
    pause: float
    """Seconds without faults before it."""


def schedule(seed: int, number: int) -> list[Episode]:
    """Return `number` faults in random order, sometimes two at once; no kind repeats before every kind has occurred."""
    rng = random.Random(seed)
    kinds: list[Fault] = []
    while len(kinds) < number:
        kinds += rng.sample(FAULTS, len(FAULTS))
    kinds = kinds[:number]
    episodes = []
    while kinds:
        together = tuple(kinds.pop() for _ in range(2 if len(kinds) > 1 and rng.random() < 0.25 else 1))
        seconds = max(rng.uniform(*fault.seconds) for fault in together)
        episodes.append(Episode(together, seconds, rng.uniform(1.0, 5.0)))
    return episodes


@contextmanager
def happening(stack: ChaosStack, episode: Episode, rng: random.Random) -> Iterator[None]:
    """Begin the faults of an episode, and undo them when the block ends."""
    with ExitStack() as undo:
        for fault in episode.faults:
            fault.begin(stack, rng, undo)
        yield


def wait(seconds: float) -> None:
    """Wait while a fault lasts."""
    time.sleep(seconds)
