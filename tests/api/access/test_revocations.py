"""How soon every process knows what one of them revoked (api.md, Authentication)."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from loguru import logger

from gateway.api.access.revocations import ALL_SECONDS, KNOWN_SECONDS, KnownRevocations, Mark
from gateway.domain.merchants import accounts
from gateway.domain.merchants.accounts import Revocations
from tests.api.conftest import Caller, expect_problem
from tests.api.process import api_process
from tests.helpers.factories import execute
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")

HTTP_SECONDS = 10
CONNECTIONS = 24
"""That all of them are with the same one of two processes happens once in eight million runs."""
CLIENT = "cl_unknown"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the test moves."""
    now = [time.monotonic()]
    monkeypatch.setattr("gateway.api.access.revocations.time.monotonic", lambda: now[0])
    return now


def process(folder: Path) -> KnownRevocations:
    """What a process of the host with this folder knows."""
    return KnownRevocations(Mark(folder / "revocations.mark"))


def store(token_id: str, age: str = "0 s") -> None:
    """Revoke a token as another host does: nobody here is told."""
    execute(
        """INSERT INTO revoked_tokens (jti, expires_at, revoked_at)
           VALUES (:jti, now() + interval '1 hour', now() - CAST(:age AS interval))""",
        jti=token_id,
        age=age,
    )


def token_id_of(merchant: Caller) -> str:
    claims: dict[str, Any] = jwt.decode(str(merchant.token), options={"verify_signature": False})
    return str(claims["jti"])


@pytest.mark.parametrize("deed", ["logout", "delete"])
def test_what_one_process_revoked_no_process_of_the_host_accepts_any_more(
    deed: str, merchant: Caller, tmp_path: Path
) -> None:
    with api_process(tmp_path / "api.log", workers=2, AUTH_RATE_LIMIT_PER_SECOND="0") as api:
        form = {"grant_type": "client_credentials", **merchant.facts["client"]}
        token = requests.post(f"{api.url}/oauth/token", data=form, timeout=HTTP_SECONDS).json()["access_token"]
        owner, client = ({"Authorization": f"Bearer {one}"} for one in (merchant.token, token))
        clients = requests.get(f"{api.url}/v1/api-clients", headers=owner, timeout=HTTP_SECONDS).json()["data"]
        sessions = [requests.Session() for _ in range(CONNECTIONS)]

        def statuses() -> set[int]:
            url = f"{api.url}/v1/transactions"
            return {one.get(url, headers=client, timeout=HTTP_SECONDS).status_code for one in sessions}

        assert statuses() == {200}
        if deed == "logout":
            answer = requests.post(f"{api.url}/auth/logout", headers=client, timeout=HTTP_SECONDS)
        else:
            url = f"{api.url}/v1/api-clients/{clients[0]['id']}"
            answer = requests.delete(url, headers=owner, timeout=HTTP_SECONDS)
        assert answer.status_code == 204
        assert statuses() == {401}


@pytest.mark.usefixtures("clock")
def test_a_process_reads_again_as_soon_as_another_one_announces(tmp_path: Path) -> None:
    one, other = process(tmp_path), process(tmp_path)
    assert not other.include("token", CLIENT)

    store("token")
    assert not other.include("token", CLIENT)
    one.announce()
    assert other.include("token", CLIENT)
    assert one.include("token", CLIENT)


@pytest.mark.usefixtures("clock")
def test_what_is_announced_while_a_process_reads_is_read_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = process(tmp_path), process(tmp_path)
    read = accounts.revocations

    def read_just_before(connection: Any, within: timedelta) -> Revocations:
        found = read(connection, within)
        store("token")
        one.announce()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(accounts, "revocations", read_just_before)
        assert not other.include("token", CLIENT)
    assert other.include("token", CLIENT)


def test_without_a_file_a_process_still_knows_at_once_what_it_revoked(clock: list[float], tmp_path: Path) -> None:
    nowhere = tmp_path / "not there"
    one, other = process(nowhere), process(nowhere)
    assert not one.include("token", CLIENT)
    assert not other.include("token", CLIENT)

    store("token")
    one.announce()
    assert one.include("token", CLIENT)
    assert not other.include("token", CLIENT)
    clock[0] += KNOWN_SECONDS
    assert other.include("token", CLIENT)


def test_a_mark_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")

    Mark(tmp_path / "not there" / "revocations.mark")

    logger.remove(sink)
    assert [line.partition(", ")[0] for line in lines] == [
        f"WARNING KEYS_DIR: without {tmp_path}/not there/revocations.mark"
    ]


def test_a_process_reads_old_revocations_at_its_start_and_seldom_again(clock: list[float], tmp_path: Path) -> None:
    started = process(tmp_path)
    assert not started.include("token", CLIENT)
    store("token", age="10 minutes")

    clock[0] += KNOWN_SECONDS
    assert not started.include("token", CLIENT)
    assert process(tmp_path).include("token", CLIENT)
    clock[0] += ALL_SECONDS
    assert started.include("token", CLIENT)
    clock[0] += KNOWN_SECONDS
    assert started.include("token", CLIENT)


def test_a_token_that_another_host_revoked_is_refused_within_two_seconds(merchant: Caller) -> None:
    assert merchant.get("/v1/transactions").status_code == 200
    store(token_id_of(merchant))

    eventually(lambda: merchant.get("/v1/transactions").status_code == 401, within=2, what="the revocation")
    refused = merchant.get("/v1/transactions")
    expect_problem(refused, 401, "invalid_token")
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
