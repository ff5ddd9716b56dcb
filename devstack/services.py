"""PostgreSQL and RabbitMQ: which of them the stack starts, their ports, and the variables with their URLs."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from devstack import processes, procfile
from devstack.processes import Unit
from devstack.servers import cluster, postgres, private_files, rabbitmq
from devstack.settings import Layout
from devstack.terminal import DevstackError, info

_DIALECTS = ("postgresql+psycopg://", "postgresql://", "postgres://")
_BROKERS = ("amqp://", "amqps://")
STOP_LAST = ("rabbitmq", *cluster.NODES, "epmd", "postgresql")
"""The servers stop after everything that uses them, and the database stops last."""


@dataclass(frozen=True)
class Endpoints:
    """The URLs of both servers. The management URL includes its credentials; it is None if the caller gives none."""

    database_url: str
    """URL for the gateway's role."""
    owner_url: str
    """URL for the role that owns the tables, which runs the migrations."""
    admin_url: str
    """URL for the role that creates databases for the tests."""
    broker_url: str
    management_url: str | None
    password: str
    """The password of the broker that the stack starts."""
    database_direct_url: str | None = None

    def variables(self) -> dict[str, str]:
        """Return the gateway's settings; they do not include the URLs of the owner and of the superuser."""
        found = {"DATABASE_URL": self.database_url, "RABBITMQ_URL": self.broker_url, "BROKER_URL": self.broker_url}
        found["DATABASE_DIRECT_URL"] = self.database_direct_url or ""
        return found | ({"RABBITMQ_MANAGEMENT_URL": self.management_url} if self.management_url else {})


@dataclass(frozen=True)
class Plan:
    """The servers that the environment names. The stack starts a server whose URL is None."""

    database_url: str | None
    broker_url: str | None
    management_url: str | None
    clustered: bool = False
    """Start a cluster of several nodes instead of one broker."""
    database_direct_url: str | None = None
    """The server behind the pooler at `database_url`."""

    @classmethod
    def read(cls, env: dict[str, str], prefix: str = "") -> "Plan":
        """Read DATABASE_URL with DATABASE_DIRECT_URL, RABBITMQ_URL (or BROKER_URL) and RABBITMQ_MANAGEMENT_URL."""
        database = env.get(f"{prefix}DATABASE_URL") or None
        broker = env.get(f"{prefix}RABBITMQ_URL") or env.get(f"{prefix}BROKER_URL") or None
        if database:
            database = _with_driver(database)
        if broker and not broker.startswith(_BROKERS):
            raise DevstackError(
                f"RABBITMQ_URL/BROKER_URL must be an amqp:// or amqps:// URL, not {broker.partition('://')[0]}://:"
                " others have neither dead-letter exchanges nor publisher confirms, so a rejected task would be lost"
            )
        for name, used in (("DATABASE_URL", database), ("RABBITMQ_URL", broker)):
            if used:
                info(f"using {prefix}{name} from the environment")
        return cls(
            database,
            broker,
            env.get(f"{prefix}RABBITMQ_MANAGEMENT_URL") or None,
            database_direct_url=(env.get(f"{prefix}DATABASE_DIRECT_URL") or None) if database else None,
        )


def _with_driver(url: str) -> str:
    for dialect in _DIALECTS:
        if url.startswith(dialect):
            return _DIALECTS[0] + url.removeprefix(dialect)
    raise DevstackError(f"DATABASE_URL must be a postgresql:// URL, not {url.partition('://')[0]}://")


@contextmanager
def running(stack: Layout, plan: Plan, env: dict[str, str]) -> Iterator[tuple[Endpoints, list[Unit]]]:
    """Start the servers that have no URL, yield all URLs, and stop the servers: RabbitMQ first, PostgreSQL last."""
    password = private_files.password(stack.secrets_file, "rabbitmq")
    broker = cluster if plan.clustered else rabbitmq
    try:
        units = [] if plan.broker_url else broker.start(stack, password, env)
        if not plan.database_url:
            units.append(postgres.start(stack, env))
        yield (
            Endpoints(
                database_url=plan.database_url or postgres.url(stack),
                owner_url=plan.database_url or postgres.url(stack, postgres.OWNER),
                admin_url=plan.database_url or postgres.url(stack, postgres.SUPERUSER),
                broker_url=plan.broker_url or broker.url(stack, password),
                management_url=plan.management_url if plan.broker_url else broker.management_url(stack, password),
                password=password,
                database_direct_url=plan.database_direct_url,
            ),
            units,
        )
    finally:
        started = processes.leftovers(stack)  # the pid files also name the servers of a failed start
        for name in STOP_LAST:
            processes.stop([started[name]] if name in started else [])


def wait_for_broker(stack: Layout, endpoints: Endpoints, units: list[Unit]) -> None:
    """Return when the broker that the stack started is ready; do not wait for another one."""
    for unit in units:
        if unit.name == "rabbitmq":
            rabbitmq.wait_until_ready(stack, unit, endpoints.password)
    nodes = [unit for unit in units if unit.name in cluster.NODES]
    if nodes:
        cluster.wait_until_ready(stack, nodes, endpoints.password)


def needed_ports(stack: Layout, plan: Plan, others: dict[str, int]) -> dict[str, int]:
    """Return the needed ports by their purpose."""
    needed = dict(others)
    if not plan.database_url:
        needed["PostgreSQL"] = stack.ports.postgresql
    if not plan.broker_url:
        needed |= {
            "RabbitMQ": stack.ports.amqp,
            "RabbitMQ's management": stack.ports.management,
            "Erlang's distribution": stack.ports.distribution,
            "Erlang's port mapper": stack.ports.epmd,
        }
    if plan.clustered:
        needed |= cluster.needed_ports(stack)
    return needed


def refuse_taken_ports(needed: dict[str, int]) -> None:
    """Raise an error if another program listens on one of the ports; nothing is started yet."""
    for what, port in needed.items():
        if _taken(port):
            raise DevstackError(
                f"port {port}, needed for {what}, is in use{_holder(port)}; stop that program, or set DEV_PORT_BASE"
                " to move all ports of this stack (for example DEV_PORT_BASE=18870)"
            )


def _taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise DevstackError(f"cannot listen on 127.0.0.1:{port}: {error}") from error
    return False


def _holder(port: int) -> str:
    """Return the program that uses a port, if this user may see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})" if connection.pid else ""
    except psutil.Error:
        pass
    return ""


def end_leftovers(stack: Layout) -> None:
    """Stop the processes that a killed supervisor left behind, in order: the roles, then the servers."""
    found = processes.leftovers(stack)
    if found:
        info("stopping processes of an earlier start: " + ", ".join(found))
    servers = [found[name] for name in STOP_LAST if name in found]
    roles = {name: managed for name, managed in found.items() if name not in STOP_LAST}
    for names in procfile.stop_order(roles):
        processes.stop([roles[name] for name in names])
    processes.kill_strays(stack, keep=servers)
    for server in servers:
        processes.stop([server])
    processes.kill_strays(stack)
