"""Three RabbitMQ nodes in one cluster, all on this machine, for the test of what the loss of one does."""

import dataclasses
from dataclasses import dataclass

import requests

from devstack.processes import Unit
from devstack.servers import rabbitmq
from devstack.settings import Layout
from devstack.terminal import info
from devstack.waiting import tail, wait_until

NODES = ("rabbitmq1", "rabbitmq2", "rabbitmq3")
"""Names of the units, and of the nodes before their ``@localhost``."""
_JOIN_LIMIT_SECONDS = 120
_REQUEST_LIMIT_SECONDS = 5
_PORTS = ("amqp", "management", "distribution")
_CONFIGURATION = """
cluster_formation.peer_discovery_backend = classic_config
{peers}
# What is recommended for three nodes: a node that sees neither of the others stops serving until it does.
cluster_partition_handling = pause_minority
"""


@dataclass(frozen=True)
class Node:
    """One node: its name, and the stack as this node sees it, with its own ports."""

    name: str
    stack: Layout


def nodes(stack: Layout) -> list[Node]:
    """Return the nodes; their ports follow the stack's own."""
    first = max(dataclasses.astuple(stack.ports)) + 1
    found = []
    for number, name in enumerate(NODES):
        ports = {what: first + number * len(_PORTS) + offset for offset, what in enumerate(_PORTS)}
        found.append(Node(name, dataclasses.replace(stack, ports=dataclasses.replace(stack.ports, **ports))))
    return found


def needed_ports(stack: Layout) -> dict[str, int]:
    """Return who needs which port."""
    return {f"{what} of {node.name}": getattr(node.stack.ports, what) for node in nodes(stack) for what in _PORTS}


def start(stack: Layout, password: str, env: dict[str, str]) -> list[Unit]:
    """Start Erlang's port mapper and the nodes, and return at once."""
    peers = [f"cluster_formation.classic_config.nodes.{n} = {name}@localhost" for n, name in enumerate(NODES, 1)]
    further = _CONFIGURATION.format(peers="\n".join(peers))
    mapper = rabbitmq.start_port_mapper(stack, password, env)
    started = [
        rabbitmq.start_node(node.stack, password, env, node.name, node=node.name, further=further)
        for node in nodes(stack)
    ]
    return [mapper, *started]


def wait_until_ready(stack: Layout, units: list[Unit], password: str) -> None:
    """Return when every node serves and all of them have found each other.

    A queue that is declared earlier gets fewer members, and would not survive the loss of a node.
    """
    for node, unit in zip(nodes(stack), units, strict=True):
        rabbitmq.wait_until_ready(node.stack, unit, password)
    log = stack.logs / f"{NODES[0]}.log"
    wait_until(
        lambda: _running(stack, password) == set(NODES),
        _JOIN_LIMIT_SECONDS,
        lambda: f"the nodes do not form a cluster, only {_running(stack, password)} run:\n{tail(log)}",
    )
    info(f"RabbitMQ cluster of {', '.join(NODES)}")


def _running(stack: Layout, password: str) -> set[str]:
    try:
        answer = requests.get(f"{management_url(stack, password)}/api/nodes", timeout=_REQUEST_LIMIT_SECONDS)
        answer.raise_for_status()
    except requests.RequestException:
        return set()
    return {node["name"].partition("@")[0] for node in answer.json() if node["running"]}


def url(stack: Layout, password: str) -> str:
    """Return the nodes' URLs as the gateway takes them."""
    return ";".join(rabbitmq.url(node.stack, password) for node in nodes(stack))


def management_url(stack: Layout, password: str) -> str:
    """Return the first node's management URL: it tells of the whole cluster."""
    return rabbitmq.management_url(nodes(stack)[0].stack, password)
