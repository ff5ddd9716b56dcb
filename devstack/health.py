"""Wait until every started role is healthy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
from amqp.exceptions import AMQPError
from kombu import Connection
from kombu.exceptions import OperationalError

from devstack import procfile
from devstack.processes import Unit
from devstack.settings import Layout
from devstack.terminal import DevstackError, info
from devstack.waiting import pause, tail, wait_until

_START_LIMIT_SECONDS = 90
_REQUEST_LIMIT_SECONDS = 3
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Addresses:
    """The URLs that the probes use."""

    api_url: str
    flower_url: str
    broker_url: str


def wait_until_healthy(stack: Layout, units: list[Unit], commands: dict[str, str], where: Addresses) -> None:
    """Return when every role is healthy.

    The API answers /health/ready, Flower answers /healthcheck, and every queue of a worker has a consumer. The relay
    and beat have no port; they must be running. A role that ends is an error, whose text has its last lines.
    """
    waiting = {unit.name: probe(unit.name, commands[unit.name], where) for unit in units}

    def healthy() -> bool:
        refuse_ended(stack, units)
        for name in [name for name, is_up in waiting.items() if is_up()]:
            del waiting[name]
        if waiting:
            pause(_POLL_SECONDS)
        return not waiting

    def late() -> str:
        logs = "\n".join(f"  {name}:\n{tail(stack.logs / f'{name}.log', 10)}" for name in waiting)
        return f"not healthy: {', '.join(waiting)}\n{logs}\n"

    wait_until(healthy, _START_LIMIT_SECONDS, late)
    info("every role is healthy")


def refuse_ended(stack: Layout, units: list[Unit]) -> None:
    """Raise an error if a unit has ended."""
    for unit in units:
        if not unit.managed.alive():
            status = unit.managed.exit_status()
            last = tail(stack.logs / f"{unit.name}.log")
            raise DevstackError(f"{unit.name} ended unexpectedly with status {status}; its last lines:\n{last}")


def probe(name: str, command: str, where: Addresses) -> Callable[[], bool]:
    """Return a function that returns whether this role is up."""
    if name == "api":
        return lambda: _answers(f"{where.api_url}/health/ready")
    if name == "flower":
        return lambda: _answers(f"{where.flower_url}/healthcheck")
    queues = procfile.queues(command)
    if queues:
        return lambda: _consumed(where.broker_url, queues)
    return lambda: True


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=_REQUEST_LIMIT_SECONDS).ok
    except requests.RequestException:
        return False


def _consumed(broker_url: str, queues: list[str]) -> bool:
    """Return whether each queue has a consumer, according to the broker."""
    try:
        with Connection(broker_url, connect_timeout=_REQUEST_LIMIT_SECONDS) as connection:
            channel: Any = connection.channel()  # the transport's own channel; its type is not part of kombu's stubs
            counts = [int(channel.queue_declare(queue, passive=True).consumer_count) for queue in queues]
            return all(counts)
    except (OSError, AMQPError, OperationalError):
        return False
