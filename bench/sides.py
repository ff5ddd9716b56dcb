"""The two sides of the comparison: how to start, call and stop each. They share the servers and take turns."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import psycopg
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from devstack import health, processes, procfile, services, stackfile, supervisor
from devstack.bootstrap import ROOT
from devstack.processes import Unit
from devstack.servers import accounts, postgres, private_files
from devstack.services import Endpoints, Plan
from devstack.settings import Layout
from devstack.terminal import DevstackError
from devstack.waiting import run_step, wait_until

BASELINE = "baseline"
ACQUIRER_MS = 100
SHARED_BUFFERS = "2GB"
_STEP_SECONDS = 120
_HTTP_SECONDS = 10

GATEWAY_SETTINGS = {
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "json",
    "RATE_LIMIT_PER_SECOND": "1000000",
    "MERCHANT_RATE_LIMIT_PER_SECOND": "1000000",
}
"""Settings other than the defaults: as in production, but without effective rate limits, as one client sends all."""

_GRANIAN = (
    "granian --interface wsgi --host 127.0.0.1 --port {port} --workers ${{API_WORKERS:-2}}"
    " --blocking-threads ${{API_THREADS:-16}} --backlog 2048 bench.baseline.app:app"
)
_WORKER = (
    "celery -A bench.baseline.tasks worker -Q route,settle -n worker-{number}@%h --concurrency 2"
    " --without-gossip --without-mingle --loglevel INFO"
)


@dataclass(frozen=True)
class Side:
    """One side: its roles and its addresses. `queues` are those of payments, in the order of the pipeline."""

    name: str
    roles: Mapping[str, str]
    env: Mapping[str, str]
    database: str
    broker_url: str
    queues: tuple[str, ...]


@dataclass(frozen=True)
class Servers:
    """PostgreSQL and RabbitMQ, shared by both sides."""

    layout: Layout
    endpoints: Endpoints
    units: list[Unit]
    caller: dict[str, str]

    def database(self, name: str) -> str:
        """Return the URL of a database for psycopg."""
        return postgres.url(self.layout, database=name).replace("+psycopg", "")

    def administer(self, statement: str, name: str = "postgres") -> None:
        """Run a statement as PostgreSQL's superuser, without a transaction."""
        with postgres.connect(self.layout, name) as connection:
            connection.execute(statement.encode())

    def clean_up(self) -> None:
        """Vacuum and checkpoint, so that the writes of one side do not slow the turn of the other."""
        for name in (postgres.DATABASE, BASELINE):
            self.administer("VACUUM (ANALYZE)", name)
        self.administer("CHECKPOINT")


def work_folder(layout: Layout) -> Path:
    """Return the folder of the benchmark's files in DEV_DIR."""
    folder = layout.home / "bench"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def servers(layout: Layout, caller: dict[str, str]) -> Iterator[Servers]:
    """Start PostgreSQL and RabbitMQ on fresh data, with a database and a virtual host for each side."""
    plan = Plan(None, None, None)
    services.refuse_taken_ports(services.needed_ports(layout, plan, {"the API": layout.ports.api}))
    with services.running(layout, plan, caller) as (endpoints, units):
        found = Servers(layout, endpoints, units, caller)
        _prepare_postgresql(found)
        found.administer(f"CREATE DATABASE {BASELINE} OWNER {postgres.USER}")
        services.wait_for_broker(layout, endpoints, units)
        _make_virtual_host(endpoints)
        yield found


def _prepare_postgresql(on: Servers) -> None:
    """Configure PostgreSQL for a benchmark and restart it.

    It records the commit time of each row, for the latencies, and its buffers hold all pages in use; other stacks keep
    PostgreSQL's default of 128 MB.
    """
    on.administer("ALTER SYSTEM SET track_commit_timestamp = on")
    on.administer(f"ALTER SYSTEM SET shared_buffers = '{SHARED_BUFFERS}'")
    server = next(unit for unit in on.units if unit.name == "postgresql")
    processes.stop([server.managed])
    server.relaunch()

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            on.administer("SELECT 1")
            return True
        return False

    wait_until(answers, _STEP_SECONDS, lambda: "PostgreSQL does not answer")


def _make_virtual_host(endpoints: Endpoints) -> None:
    base = f"{endpoints.management_url}/api"
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    requests.put(f"{base}/vhosts/{BASELINE}", json={}, timeout=_HTTP_SECONDS).raise_for_status()
    user = quote(postgres.USER)
    requests.put(f"{base}/permissions/{BASELINE}/{user}", json=everything, timeout=_HTTP_SECONDS).raise_for_status()


def _step(on: Servers, what: str, command: list[str], env: Mapping[str, str]) -> str:
    log = on.layout.logs / f"{what}.log"
    run_step(what, command, dict(env), log, _STEP_SECONDS)
    return log.read_text()


def gateway(on: Servers) -> Side:
    """Return the gateway with every role of the Procfile, including Flower, beat and metrics."""
    env = supervisor.role_environment(on.layout, on.caller, on.endpoints) | GATEWAY_SETTINGS
    supervisor.migrate(on.layout, Plan(None, None, None), on.endpoints, env)
    _step(on, "topology", [sys.executable, "-m", "tasks.topology"], env)
    queues = (
        "transaction.created",
        "transaction.created.bulk",
        "settlement.requested",
        "settlement.requested.bulk",
    )
    return Side("gateway", procfile.roles(), env, on.database(postgres.DATABASE), on.endpoints.broker_url, queues)


def delete_payments(on: Servers) -> None:
    """Replace the gateway's database with an empty one; none of its roles may run."""
    on.administer(f"DROP DATABASE {postgres.DATABASE} WITH (FORCE)")
    postgres.make_database(on.layout, postgres.DATABASE)


def baseline(on: Servers) -> Side:
    """Return the plain pipeline: as many API processes and threads as the gateway, and 2 workers with 2 processes."""
    keys = work_folder(on.layout) / "keys"
    _write_keys(keys)
    broker_url = f"{on.endpoints.broker_url.rpartition('/')[0]}/{BASELINE}"
    env = on.caller | {
        "BASELINE_DATABASE_URL": on.database(BASELINE).replace("postgresql:", "postgresql+psycopg:"),
        "BASELINE_BROKER_URL": broker_url,
        "BASELINE_KEYS": str(keys),
    }
    roles = {"api": _GRANIAN.format(port=on.layout.ports.api)}
    roles |= {f"worker-{number}": _WORKER.format(number=number) for number in (1, 2)}
    return Side("baseline", roles, env, on.database(BASELINE), broker_url, ("route", "settle"))


def _write_keys(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    private_files.write_private(folder / "private.pem", private.decode())
    private_files.write_private(folder / "public.pem", public.decode())


def with_acquirer(side: Side, layout: Layout) -> Side:
    """Return the side with a provider over HTTP that takes `ACQUIRER_MS` for a charge."""
    file = work_folder(layout) / f"acquirer-{side.name}.sqlite"
    url = stackfile.acquirer_url(layout)
    command = f"python -m gateway.sandbox --port {layout.ports.acquirer} --file {file} --latency-ms {ACQUIRER_MS}"
    settings = {"PROVIDERS": "sandbox", "SANDBOX_ACQUIRER_URL": url, "BASELINE_PROVIDER_URL": url}
    return replace(side, roles={"acquirer": command, **side.roles}, env={**side.env, **settings})


def token(side: Side, layout: Layout) -> str:
    """Return an access token of a merchant; the side must be running."""
    url = stackfile.api_url(layout)
    if side.name == BASELINE:
        command = ["flask", "--app", "bench.baseline.app", "prepare"]
        done = subprocess.run(command, check=True, cwd=ROOT, env=dict(side.env), capture_output=True, text=True)
        return done.stdout.split()[-1]
    found = accounts.token(url, accounts.merchant(layout, url))
    if found is None:
        raise DevstackError("the merchant of the benchmark cannot get an access token")
    return found


@contextmanager
def roles_running(side: Side, layout: Layout) -> Iterator[list[Unit]]:
    """Start the roles of a side, yield them when they are healthy, and stop them in order."""
    units: list[Unit] = []
    try:
        units.extend(procfile.start(layout, name, command, dict(side.env)) for name, command in side.roles.items())
        where = health.Addresses(stackfile.api_url(layout), stackfile.flower_url(layout), side.broker_url)
        health.wait_until_healthy(layout, units, dict(side.roles), where)
        yield units
    finally:
        managed = {unit.name: unit.managed for unit in units}
        for group in procfile.stop_order(managed):
            processes.stop([managed[name] for name in group])


def operator_token(side: Side, layout: Layout) -> str:
    """Return an access token of an operator of the gateway, whose scopes no merchant has."""
    url = stackfile.api_url(layout)
    found = accounts.operator_token(url, accounts.operator(layout, url, dict(side.env)))
    if found is None:
        raise DevstackError("the operator of the benchmark cannot get an access token")
    return found
