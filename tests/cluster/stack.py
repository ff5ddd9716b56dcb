"""The stack with a cluster as its broker: running nodes, leaders of queues, connections."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import requests

from devstack.servers import cluster
from devstack.servers.rabbitmq import VHOST
from devstack.settings import CLUSTER_DIR, CLUSTER_PORT_BASE, layout
from tests.chaos.stack import TIMEOUT_SECONDS, ChaosStack
from tests.helpers.waiting import eventually

STOP_SECONDS = 90.0
"""A node that stops gracefully first closes its connections and transfers its queues."""


class ClusterStack(ChaosStack):
    """A running stack whose broker has three nodes."""

    def __init__(self, stack_file: Path) -> None:
        super().__init__(stack_file)
        self._management_ports = {
            node.name: node.stack.ports.management for node in cluster.nodes(layout(CLUSTER_DIR, CLUSTER_PORT_BASE))
        }

    def management(self, method: str, path: str) -> requests.Response:
        """Call the management API of the first node that answers.

        Raises:
            requests.RequestException: no node answers.
        """
        credentials = self.found()["management"]
        auth = (credentials["user"], credentials["password"])
        problem: requests.RequestException | None = None
        for port in self._management_ports.values():
            try:
                url = f"http://127.0.0.1:{port}/api/{path}"
                response = requests.request(method, url, auth=auth, timeout=TIMEOUT_SECONDS)
                response.raise_for_status()
                return response
            except requests.RequestException as exc:
                problem = exc
        raise problem or requests.ConnectionError("there are no nodes")

    def running_nodes(self) -> set[str]:
        """Return the running nodes, or none if no node answers."""
        with suppress(requests.RequestException):
            nodes = self.management("GET", "nodes").json()
            return {_short(node["name"]) for node in nodes if node["running"]}
        return set()

    def queue_leader(self, queue: str) -> str:
        """Return the node that leads a queue."""
        found = self.management("GET", f"queues/{quote(VHOST)}/{quote(queue)}").json()
        return _short(found["leader"])

    def leaders(self) -> Counter[str]:
        """Count the queues that each node leads."""
        return Counter(_short(queue["leader"]) for queue in self._quorum_queues())

    def incomplete_queues(self) -> dict[str, list[str]]:
        """Return the quorum queues with a missing or stopped member, each with its running members."""
        try:
            queues = self._quorum_queues()
        except requests.RequestException as exc:
            return {"management": [str(exc)]}
        everyone = sorted(cluster.NODES)
        running = {
            queue["name"]: sorted(set(map(_short, queue["members"])) & set(map(_short, queue.get("online", []))))
            for queue in queues
        }
        return {name: online for name, online in running.items() if online != everyone}

    def _quorum_queues(self) -> list[dict[str, Any]]:
        queues: list[dict[str, Any]] = self.management("GET", f"queues/{quote(VHOST)}").json()
        return [queue for queue in queues if queue["type"] == "quorum"]

    def unconsumed(self, names: list[str]) -> list[str]:
        """Return those of the queues that have no consumer."""
        consumers = {queue["name"]: queue.get("consumers", 0) for queue in self._quorum_queues()}
        return [name for name in names if not consumers.get(name)]

    def connections(self) -> Counter[str]:
        """Count the AMQP connections of each node."""
        return Counter(_short(found["node"]) for found in self.management("GET", "connections").json())

    def workers_of_flower(self) -> set[str]:
        """Return the workers that answer Flower."""
        found = self.found()
        auth = (found["flower"]["user"], found["flower"]["password"])
        with suppress(requests.RequestException, ValueError):
            url = f"{found['flower_url']}/api/workers"
            response = requests.get(url, params={"refresh": "true"}, auth=auth, timeout=TIMEOUT_SECONDS)
            response.raise_for_status()
            return {name.partition("@")[0] for name in response.json()}
        return set()

    def settled(self) -> int:
        """Return the number of settlements."""
        with self.database() as connection:
            [[number]] = connection.execute("SELECT count(*) FROM settlements").fetchall()
        return int(number)

    def longest_pause(self, begin: float, end: float) -> float:
        """Return the longest time without a settlement between two times (seconds since the epoch)."""
        with self.database() as connection:
            rows = connection.execute(
                "SELECT extract(epoch FROM settled_at) FROM settlements"
                " WHERE settled_at BETWEEN to_timestamp(%s) AND to_timestamp(%s) ORDER BY settled_at",
                [begin, end],
            ).fetchall()
        points = [begin, *(float(row[0]) for row in rows), end]
        return max(later - earlier for earlier, later in pairwise(points))

    @contextmanager
    def stopped(self, *nodes: str, by: signal.Signals) -> Iterator[None]:
        """Stop the nodes by a signal, together, and keep them stopped within the block."""
        with ExitStack() as undo:
            for node in nodes:
                undo.enter_context(self.held(node))
            pids = {node: self.leader(node) for node in nodes}
            for pid in pids.values():
                os.kill(pid, by)
            for node, pid in pids.items():
                eventually(partial(_ended, pid), within=STOP_SECONDS, what=f"the end of {node}")
            yield


def _short(node: str) -> str:
    return node.partition("@")[0]


def _ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
