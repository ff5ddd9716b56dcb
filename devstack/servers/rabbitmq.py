"""A private RabbitMQ server, installed or unpacked, with its data in DEV_DIR."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import requests

from devstack.processes import Managed, Stopping, Unit, spawn
from devstack.servers import private_files
from devstack.servers.debian_packages import unpacked
from devstack.settings import Layout
from devstack.terminal import DevstackError, info
from devstack.waiting import tail, wait_until

USER = VHOST = NODE = "payments"
_START_LIMIT_SECONDS = 90
_STOP_LIMIT_SECONDS = 60
_REPEAT_SECONDS = 3
_REQUEST_LIMIT_SECONDS = 5
_CONTROL_LIMIT_SECONDS = 60
_INSTALLED = (
    "/usr/lib/rabbitmq/bin",  # Debian, Fedora; /usr/sbin holds a wrapper that calls su
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/opt/rabbitmq/sbin",
)
_FOREIGN = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
"""Prefixes of variables for another RabbitMQ, Erlang or service manager, which must not affect this server."""
_PLUGINS = "[rabbitmq_management].\n"
"""Not rabbitmq_prometheus, whose port needs no password before RabbitMQ 4. The gateway's /metrics shows the queues."""
_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{ports.amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {ports.management}
default_user = {user}
default_pass = {password}
default_vhost = {vhost}
# The greatest age of queue lengths in Flower and in the metrics (milliseconds).
collect_statistics_interval = 1000
log.console = false
log.file = {node}.log
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 200MB
"""


def start(stack: Layout, password: str, env: dict[str, str]) -> list[Unit]:
    """Start Erlang's port mapper and the server; return before the server is ready."""
    return [start_port_mapper(stack, password, env), start_node(stack, password, env, "rabbitmq")]


def start_port_mapper(stack: Layout, password: str, env: dict[str, str]) -> Unit:
    """Start Erlang's port mapper, through which nodes find each other."""
    own = _environment(stack, password, env, _programs(stack, env)[1])
    mapper = shutil.which("epmd", path=own["PATH"])
    if mapper is None:
        raise DevstackError("RabbitMQ is installed, but Erlang's epmd is missing; reinstall RabbitMQ")

    def launch() -> Managed:
        # Otherwise Erlang starts a daemon, which listens on all addresses and does not stop with the server.
        command = [mapper, "-address", "127.0.0.1", "-port", str(stack.ports.epmd)]
        return spawn(stack, "epmd", command, env=own, stopping=Stopping(limit_seconds=5))

    epmd = Unit.launched("epmd", launch)
    log = stack.logs / "epmd.log"
    wait_until(lambda: _listens(stack.ports.epmd), 10, lambda: f"epmd does not answer:\n{tail(log)}")
    return epmd


def start_node(
    stack: Layout, password: str, env: dict[str, str], name: str, *, node: str = NODE, extra: str = ""
) -> Unit:
    """Start a server; return before it is ready. `extra` is appended to its configuration."""
    scripts, erlang = _programs(stack, env)
    own = _environment(stack, password, env, erlang, node=node, extra=extra)

    def launch() -> Managed:
        command = [str(scripts / "rabbitmq-server")]
        stopping = Stopping(limit_seconds=_STOP_LIMIT_SECONDS, repeat_seconds=_REPEAT_SECONDS)
        return spawn(stack, name, command, env=own, stopping=stopping)

    return Unit.launched(name, launch)


def wait_until_ready(stack: Layout, server: Unit, password: str) -> None:
    """Return when the broker accepts AMQP connections and its management API answers."""
    log = stack.logs / f"{server.name}.log"

    def ready() -> bool:
        if not server.managed.alive():
            raise DevstackError(f"RabbitMQ ended while starting:\n{tail(log)}")
        return _listens(stack.ports.amqp) and _manages(stack, password)

    wait_until(ready, _START_LIMIT_SECONDS, lambda: f"RabbitMQ does not answer:\n{tail(log)}")
    info(f"RabbitMQ on 127.0.0.1:{stack.ports.amqp}, management on http://127.0.0.1:{stack.ports.management}")


def control(stack: Layout, password: str, env: dict[str, str], *arguments: str) -> None:
    """Run rabbitmqctl against this stack's server.

    Raises:
        DevstackError: it failed, or did not end in time.
    """
    scripts, erlang = _programs(stack, env)
    command = [str(scripts / "rabbitmqctl"), *arguments]
    own = _environment(stack, password, env, erlang)
    try:
        subprocess.run(command, check=True, env=own, capture_output=True, text=True, timeout=_CONTROL_LIMIT_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise DevstackError(f"rabbitmqctl {' '.join(arguments)}: {error}; {error.stderr!r}") from error


def url(stack: Layout, password: str) -> str:
    return f"amqp://{USER}:{password}@127.0.0.1:{stack.ports.amqp}/{VHOST}"


def management_url(stack: Layout, password: str) -> str:
    return f"http://{USER}:{password}@127.0.0.1:{stack.ports.management}"


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _manages(stack: Layout, password: str) -> bool:
    try:
        response = requests.get(f"{management_url(stack, password)}/api/whoami", timeout=_REQUEST_LIMIT_SECONDS)
    except requests.RequestException:
        return False
    if response.status_code == requests.codes.unauthorized:
        raise DevstackError(
            f"RabbitMQ's data in {stack.rabbitmq_data} was created with another password than the one in"
            f" {stack.secrets_file}; delete the data with `make clean`"
        )
    return response.ok


def _programs(stack: Layout, env: dict[str, str]) -> tuple[Path, Path | None]:
    """Return the folder of RabbitMQ's scripts, and that of Erlang if it is not on PATH."""
    for folder in map(Path, _INSTALLED):
        if os.access(folder / "rabbitmq-server", os.X_OK) and shutil.which("erl", path=env["PATH"]):
            return folder, None
    root = unpacked(stack.cache, env)
    scripts, erlang = root / "usr" / "lib" / "rabbitmq" / "bin", root / "usr" / "lib" / "erlang" / "bin"
    trial = subprocess.run(
        [str(erlang / "erl"), "-noshell", "-eval", "crypto:start(), halt()."],
        check=False, env={**env, "HOME": str(stack.home)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if trial.returncode:
        raise DevstackError(
            f"the unpacked Erlang does not start, a system library may be missing (libssl, libtinfo):\n"
            f"{trial.stdout}{trial.stderr}\ninstall it, or set RABBITMQ_URL to another broker"
        )
    return scripts, erlang


def _environment(
    stack: Layout, password: str, env: dict[str, str], erlang: Path | None, *, node: str = NODE, extra: str = ""
) -> dict[str, str]:
    """Write RabbitMQ's configuration; return the variables that keep all of its files in the data folder."""
    data = stack.rabbitmq_data
    home = data / "home"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Whoever has the cookie controls the node. Erlang would derive a weak one from the clock.
    private_files.write_private(home / ".erlang.cookie", private_files.password(stack.secrets_file, "erlang"))
    (data / "enabled_plugins").write_text(_PLUGINS)
    configuration = data / f"{node}.conf"
    configuration.touch(mode=0o600)
    text = _CONFIGURATION.format(ports=stack.ports, user=USER, password=password, vhost=VHOST, node=node)
    configuration.write_text(text + extra)
    own = {name: value for name, value in env.items() if not name.startswith(_FOREIGN)}
    own |= {
        "HOME": str(home),  # the folder of the Erlang cookie
        "ERL_EPMD_PORT": str(stack.ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        # Each stack has its own port mapper, so the name need not be unique. A name without the port keeps the data
        # folder the same after a change of DEV_PORT_BASE.
        "RABBITMQ_NODENAME": f"{node}@localhost",
        "RABBITMQ_NODE_PORT": str(stack.ports.amqp),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(stack.ports.distribution),
        "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
        "RABBITMQ_LOG_BASE": str(data / "log"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(data / "generated" / node),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(configuration),
        "RABBITMQ_CONFIG_FILES": str(data / "none.d"),
        "RABBITMQ_CONF_ENV_FILE": str(data / "none"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(data / "none.config"),
        "RABBITMQ_PID_FILE": str(data / f"{node}.pid"),
        # Lets the script replace itself with the server, so that signals reach the server.
        "RUNNING_UNDER_SYSTEMD": "true",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    if erlang:
        own["PATH"] = f"{erlang}{os.pathsep}{own['PATH']}"
    return own
