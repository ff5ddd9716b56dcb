"""The demo merchant and the demo operator. $DEV_DIR stores their credentials; a new database gets new accounts."""

import json
import secrets
import subprocess
from dataclasses import asdict, dataclass

import requests

from devstack.bootstrap import ROOT
from devstack.servers import private_files
from devstack.settings import Layout
from devstack.terminal import DevstackError, info

_LIMIT_SECONDS = 15
_COMMAND_LIMIT_SECONDS = 60


@dataclass(frozen=True)
class Merchant:
    """Credentials of the demo merchant."""

    client_id: str
    client_secret: str
    email: str
    password: str


@dataclass(frozen=True)
class Operator:
    """Credentials of the demo operator."""

    email: str
    password: str


def merchant(stack: Layout, api_url: str) -> Merchant:
    """Return the demo merchant; register it through the public API if the gateway does not know it."""
    kept = stack.home / "merchant.json"
    known = private_files.read_json(kept)
    if known:
        found = Merchant(**known)
        if token(api_url, found) is not None:
            return found
    password = private_files.password(stack.secrets_file, "merchant")
    email = "merchant@example.com"
    response = _register(api_url, email, password)
    if response.status_code == requests.codes.conflict:  # the database is older than $DEV_DIR
        email = f"merchant-{secrets.token_hex(4)}@example.com"
        response = _register(api_url, email, password)
    if response.status_code != requests.codes.created:
        raise DevstackError(f"the demo merchant could not be registered: {response.status_code} {response.text[:500]}")
    client = response.json()["client"]
    account = Merchant(client["client_id"], client["client_secret"], email, password)
    private_files.write_private(kept, json.dumps(asdict(account), indent=2) + "\n")
    info(f"registered the demo merchant {email}")
    return account


def _register(api_url: str, email: str, password: str) -> requests.Response:
    body = {"email": email, "password": password, "business_name": "Demo Shop"}
    return requests.post(f"{api_url}/auth/register", json=body, timeout=_LIMIT_SECONDS)


def token(api_url: str, known: Merchant) -> str | None:
    """Return an access token, or None if the gateway does not know the client."""
    response = requests.post(
        f"{api_url}/oauth/token",
        data={"grant_type": "client_credentials"},
        auth=(known.client_id, known.client_secret),
        timeout=_LIMIT_SECONDS,
    )
    return str(response.json()["access_token"]) if response.ok else None


def operator(stack: Layout, api_url: str, env: dict[str, str]) -> Operator:
    """Return the demo operator; create it with `flask users create-operator` if the gateway does not know it."""
    kept = stack.home / "operator.json"
    usual = {"email": "operator@example.com", "password": private_files.password(stack.secrets_file, "operator")}
    account = Operator(**(private_files.read_json(kept) or usual))
    if operator_token(api_url, account) is not None:
        return account
    _create(account, env)
    if operator_token(api_url, account) is None:  # the database is older than $DEV_DIR and has another password
        account = Operator(f"operator-{secrets.token_hex(4)}@example.com", account.password)
        _create(account, env)
    private_files.write_private(kept, json.dumps(asdict(account), indent=2) + "\n")
    return account


def operator_token(api_url: str, known: Operator) -> str | None:
    """Return an access token, or None if the gateway does not know the operator."""
    response = requests.post(f"{api_url}/auth/login", json=asdict(known), timeout=_LIMIT_SECONDS)
    return str(response.json()["access_token"]) if response.ok else None


def _create(wanted: Operator, env: dict[str, str]) -> None:
    command = ["flask", "--app", "gateway.app", "users", "create-operator", "--if-missing"]
    done = subprocess.run(
        [*command, "--email", wanted.email, "--password-stdin"],
        check=False,
        cwd=ROOT,
        env=env,
        input=wanted.password + "\n",
        capture_output=True,
        text=True,
        timeout=_COMMAND_LIMIT_SECONDS,
        start_new_session=True,  # only the supervisor handles Ctrl-C
    )
    if done.returncode:
        raise DevstackError(f"the demo operator could not be created:\n{done.stdout}{done.stderr}")
