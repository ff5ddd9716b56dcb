"""Rotate and revoke the signing keys of two running API processes; no valid token is rejected meanwhile."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
import requests
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.api.access.sign_in import DEVICE_HEADER
from gateway.ids import new_id
from gateway.security.signing_keys import OVERLAP_SECONDS, RETIRED_AFTER_SECONDS
from tests.api.conftest import PASSWORD
from tests.api.process import ROOT, ApiProcess, api_process
from tests.helpers.factories import count
from tests.helpers.waiting import eventually

HTTP_SECONDS = 10
PROPAGATION_SECONDS = 3
EMAIL = "ada@example.com"


def flask_keys(keys: Path, *arguments: str, typed: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `flask keys` with the keys in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "gateway.app", "keys", *arguments],
        cwd=ROOT,
        env=os.environ | {"KEYS_DIR": str(keys)} | environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass(frozen=True)
class Hosts:
    """Two API processes that share their keys, and a client of theirs."""

    issuer: ApiProcess
    verifier: ApiProcess
    keys: Path
    client: dict[str, str]

    def issue(self) -> str:
        """Return a new token of the issuer, which the verifier must accept at once."""
        form = {"grant_type": "client_credentials", **self.client}
        response = requests.post(f"{self.issuer.url}/oauth/token", data=form, timeout=HTTP_SECONDS)
        token: str = response.json()["access_token"]
        assert self.status_of(token) == 200
        return token

    def status_of(self, token: str, url: str | None = None) -> int:
        """Return the status of a request with `token` at the verifier, or at the host with `url`."""
        headers = {"Authorization": f"Bearer {token}"}
        target = f"{url or self.verifier.url}/v1/transactions"
        return requests.get(target, headers=headers, timeout=HTTP_SECONDS).status_code

    def log_in(self, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Log in at the issuer with the right password."""
        body = {"email": EMAIL, "password": PASSWORD}
        return requests.post(f"{self.issuer.url}/auth/login", json=body, headers=headers, timeout=HTTP_SECONDS)

    def published(self) -> set[frozenset[str]]:
        """Return the ids of the published keys of each process: a single set if both agree."""
        urls = [f"{host.url}/.well-known/jwks.json" for host in (self.issuer, self.verifier)]
        responses = [requests.get(url, timeout=HTTP_SECONDS).json()["keys"] for url in urls]
        return {frozenset(key["kid"] for key in keys) for keys in responses}

    def flask_keys(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of an operator."""
        return flask_keys(self.keys, *arguments)

    def age(self, name: str, seconds: float) -> None:
        """Set the age of a key file."""
        os.utime(self.keys / name, times=(time.time() - seconds,) * 2)

    def private(self, name: str) -> rsa.RSAPrivateKey:
        key = serialization.load_pem_private_key((self.keys / name).read_bytes(), password=None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key


@pytest.fixture
def hosts(tmp_path: Path, database: None) -> Iterator[Hosts]:  # noqa: ARG001
    """Run two API processes."""
    keys = tmp_path / "keys"

    def host(name: str) -> AbstractContextManager[ApiProcess]:
        return api_process(tmp_path / f"{name}.log", KEYS_DIR=str(keys), AUTH_RATE_LIMIT_PER_SECOND="0")

    with host("issuer") as issuer, host("verifier") as verifier:
        body = {"email": EMAIL, "password": PASSWORD, "business_name": "Ada's"}
        made = requests.post(f"{issuer.url}/auth/register", json=body, timeout=HTTP_SECONDS)
        yield Hosts(issuer, verifier, keys, made.json()["client"])


def kid_of(token: str) -> str:
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


def forged(token: str, key: rsa.RSAPrivateKey, kid: str) -> str:
    """Return another token with the claims of `token`."""
    claims = jwt.decode(token, options={"verify_signature": False}) | {"jti": new_id().hex}
    return jwt.encode(claims, key, "RS256", {"kid": kid})


def test_tokens_from_before_during_and_after_a_rotation_are_valid_everywhere(hosts: Hosts) -> None:
    before = hosts.issue()
    [[old]] = hosts.published()

    rotated = hosts.flask_keys("rotate")
    assert rotated.returncode == 0, rotated.stderr
    assert "signing-0002.pem" in rotated.stdout

    eventually(lambda: [len(kids) for kids in hosts.published()] == [2], within=PROPAGATION_SECONDS, what="the new key")
    during = hosts.issue()
    assert kid_of(before) == kid_of(during) == old

    hosts.age("signing-0002.pem", OVERLAP_SECONDS)
    after = eventually(
        lambda: token if kid_of(token := hosts.issue()) != old else "", within=PROPAGATION_SECONDS, what="its signature"
    )
    assert [hosts.status_of(token) for token in (before, during, after)] == [200, 200, 200]

    old_key = hosts.private("signing-0001.pem")
    assert hosts.status_of(forged(before, old_key, old)) == 200
    hosts.age("signing-0002.pem", RETIRED_AFTER_SECONDS)

    eventually(
        lambda: hosts.published() == {frozenset({kid_of(after)})}, within=PROPAGATION_SECONDS, what="the retirement"
    )
    assert hosts.status_of(forged(before, old_key, old)) == 401
    assert hosts.flask_keys("rotate").returncode == 0
    assert sorted(path.name for path in hosts.keys.glob("signing-*")) == ["signing-0002.pem", "signing-0003.pem"]
    assert hosts.status_of(hosts.issue()) == 200


def test_a_leaked_key_is_revoked_by_deleting_its_file(hosts: Hosts) -> None:
    token = hosts.issue()
    leaked = hosts.private("signing-0001.pem")
    hosts.flask_keys("rotate")
    (hosts.keys / "signing-0001.pem").unlink()

    eventually(
        lambda: hosts.status_of(forged(token, leaked, kid_of(token))) == 401,
        within=PROPAGATION_SECONDS,
        what="the rejection of the leaked key",
    )
    eventually(lambda: len(hosts.published()) == 1, within=PROPAGATION_SECONDS, what="the agreement of both")
    assert kid_of(hosts.issue()) != kid_of(token)


def test_revoking_all_keys_ends_every_token_on_every_host_within_seconds(hosts: Hosts) -> None:
    device_token = hosts.log_in().headers[DEVICE_HEADER]
    hosts.flask_keys("rotate")
    tokens = [hosts.issue() for _ in range(3)]
    [published] = hosts.published()
    assert len(published) == 2

    done = hosts.flask_keys("revoke-all", "--yes")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("signing-0003.pem signs from now on.")
    for url in (hosts.issuer.url, hosts.verifier.url):
        eventually(
            lambda url=url: [hosts.status_of(token, url) for token in tokens] == [401] * 3,  # type: ignore[misc]
            within=PROPAGATION_SECONDS,
            what="the end of the old tokens",
        )
    [left] = hosts.published()
    assert len(left) == 1
    assert left.isdisjoint(published)
    assert kid_of(hosts.issue()) in left
    assert [path.name for path in hosts.keys.glob("signing-*")] == ["signing-0003.pem"]
    with pytest.raises(InvalidToken):
        Fernet((hosts.keys / "device-tokens.key").read_bytes()).decrypt(device_token)
    assert hosts.log_in({DEVICE_HEADER: device_token}).status_code == 200
    assert count("audit_log", "action = 'keys.revoked_all' AND actor LIKE 'cli%'") == 1


@pytest.mark.usefixtures("database")
def test_nothing_is_revoked_without_a_confirmation_or_the_audit_log(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert flask_keys(keys, "list").returncode == 0
    files = {path.name: path.read_bytes() for path in keys.iterdir()}

    for typed in ("", "n\n"):
        aborted = flask_keys(keys, "revoke-all", typed=typed)
        assert aborted.returncode == 1
        assert "All access tokens and device tokens will stop working" in aborted.stdout
    unlogged = flask_keys(keys, "revoke-all", "--yes", DATABASE_URL="postgresql://u:p@127.0.0.1:1/d")
    assert unlogged.returncode == 75
    assert unlogged.stderr.startswith("Error: The database is unavailable")

    assert {path.name: path.read_bytes() for path in keys.iterdir()} == files
    assert count("audit_log") == 0

    assert flask_keys(keys, "revoke-all", typed="y\n").returncode == 0


@pytest.mark.usefixtures("database")
def test_the_keys_can_be_listed_and_are_rotated_one_at_a_time(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert flask_keys(keys, "rotate").returncode == 0
    second = flask_keys(keys, "rotate")

    assert second.returncode == 1
    assert second.stderr == "Error: The previous new key does not sign yet; see `flask keys list`.\n"
    listed = json.loads(flask_keys(keys, "list", "--json").stdout)
    assert [(key["file"], key["state"]) for key in listed] == [
        ("signing-0001.pem", "signing"),
        ("signing-0002.pem", "next"),
    ]
    lines = flask_keys(keys, "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        [key["state"], key["file"], key["made_at"], key["kid"]] for key in listed
    ]
