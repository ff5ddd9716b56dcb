"""A cluster of three RabbitMQ nodes on this machine, to test the loss of a node."""

import dataclasses
from dataclasses import dataclass

import requests

from devstack.processes import Unit
from devstack.servers import rabbitmq
from devstack.settings import Layout
from devstack.terminal import info
from devstack.waiting import tail, wait_until

NODES = ("rabbitmq1", "rabbitmq2", "rabbitmq3")
"""Names of the units, and of the nodes before ``@localhost``."""
_JOIN_LIMIT_SECONDS = 120
_REQUEST_LIMIT_SECONDS = 5
_PORTS = ("amqp", "management", "distribution")
_CONFIGURATION = """
cluster_formation.peer_discovery_backend = classic_config
{peers}
# As recommended for three nodes: a node that cannot reach another one stops serving until it can.
cluster_partition_handling = pause_minority
"""


@dataclass(frozen=True)
class Node:
    """A node: its name, and the stack's layout with the ports of this node."""

    name: str
    stack: Layout


def nodes(stack: Layout) -> list[Node]:
    """Return the nodes; their ports follow those of the stack."""
    first = max(dataclasses.astuple(stack.ports)) + 1
    found = []
    for number, name in enumerate(NODES):
        ports = {what: first + number * len(_PORTS) + offset for offset, what in enumerate(_PORTS)}
        found.append(Node(name, dataclasses.replace(stack, ports=dataclasses.replace(stack.ports, **ports))))
    return found


def needed_ports(stack: Layout) -> dict[str, int]:
    """Return the needed ports by their purpose."""
    return {f"{what} of {node.name}": getattr(node.stack.ports, what) for node in nodes(stack) for what in _PORTS}


def start(stack: Layout, password: str, env: dict[str, str]) -> list[Unit]:
    """Start Erlang's port mapper and the nodes, and return without waiting for them."""
    peers = [f"cluster_formation.classic_config.nodes.{n} = {name}@localhost" for n, name in enumerate(NODES, 1)]
    extra = _CONFIGURATION.format(peers="\n".join(peers))
    mapper = rabbitmq.start_port_mapper(stack, password, env)
    started = [
        rabbitmq.start_node(node.stack, password, env, node.name, node=node.name, extra=extra) for node in nodes(stack)
    ]
    return [mapper, *started]


def wait_until_ready(stack: Layout, units: list[Unit], password: str) -> None:
    """Return when every node is ready and they form one cluster.

    A queue that is declared earlier gets fewer members and would not survive the loss of a node.
    """
    for node, unit in zip(nodes(stack), units, strict=True):
        rabbitmq.wait_until_ready(node.stack, unit, password)
    log = stack.logs / f"{NODES[0]}.log"
    wait_until(
        lambda: _running(stack, password) == set(NODES),
        _JOIN_LIMIT_SECONDS,
        lambda: f"the nodes do not form a cluster, only these run: {_running(stack, password)}:\n{tail(log)}",
    )
    info(f"RabbitMQ cluster of {', '.join(NODES)}")


def _running(stack: Layout, password: str) -> set[str]:
    try:
        response = requests.get(f"{management_url(stack, password)}/api/nodes", timeout=_REQUEST_LIMIT_SECONDS)
        response.raise_for_status()
    except requests.RequestException:
        return set()
    return {node["name"].partition("@")[0] for node in response.json() if node["running"]}


def url(stack: Layout, password: str) -> str:
    """Return the nodes' URLs in the format of RABBITMQ_URL."""
    return ";".join(rabbitmq.url(node.stack, password) for node in nodes(stack))


def management_url(stack: Layout, password: str) -> str:
    """Return the first node's management URL, which reports on the whole cluster."""
    return rabbitmq.management_url(nodes(stack)[0].stack, password)
