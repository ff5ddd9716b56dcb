"""stack.json, by which scripts and tests find a running stack."""

import json
import shlex
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote, urlsplit

from devstack.processes import Unit
from devstack.servers import private_files
from devstack.servers.accounts import Merchant, Operator
from devstack.services import Endpoints
from devstack.settings import Layout

FLOWER_USER = "flower"


def api_url(stack: Layout) -> str:
    return f"http://127.0.0.1:{stack.ports.api}"


def flower_url(stack: Layout) -> str:
    return f"http://127.0.0.1:{stack.ports.flower}"


def receiver_url(stack: Layout) -> str:
    """Return the URL of the alert receiver of tests; only a test that needs it listens there."""
    return f"http://127.0.0.1:{stack.ports.receiver}/alerts"


def acquirer_url(stack: Layout) -> str:
    """Return the URL of the sandbox acquirer, which only `make chaos` and `make cluster` start."""
    return f"http://127.0.0.1:{stack.ports.acquirer}"


def contents(
    stack: Layout, endpoints: Endpoints, units: list[Unit], merchant: Merchant, operator: Operator
) -> dict[str, Any]:
    """Return the contents of stack.json: URLs, credentials and process ids."""
    management = urlsplit(endpoints.management_url or "")
    flower_password = private_files.password(stack.secrets_file, "flower")
    return {
        "api_url": api_url(stack),
        "database_url": endpoints.database_url,
        "database_admin_url": endpoints.admin_url,
        "broker_url": endpoints.broker_url,
        "management_url": f"{management.scheme}://{management.netloc.rpartition('@')[2]}"
        if management.netloc
        else None,
        "management": {"user": unquote(management.username or ""), "password": unquote(management.password or "")},
        "flower_url": flower_url(stack),
        "flower": {"user": FLOWER_USER, "password": flower_password},
        "alert_receiver_url": receiver_url(stack),
        "acquirer_url": acquirer_url(stack),
        "merchant": asdict(merchant),
        "operator": asdict(operator),
        "processes": {unit.name: unit.pids() for unit in units},
    }


def write(stack: Layout, found: dict[str, Any]) -> None:
    private_files.write_private(stack.stack_file, json.dumps(found, indent=2) + "\n")


def write_env(stack: Layout, endpoints: Endpoints, extra: dict[str, str] | None = None) -> None:
    """Write a file of variables for a shell; only this user can read it, because it contains passwords."""
    variables = endpoints.variables() | {"DATABASE_OWNER_URL": endpoints.owner_url} | (extra or {})
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    private_files.write_private(stack.env_file, "\n".join(lines) + "\n")
