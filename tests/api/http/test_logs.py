"""The log of a running API contains no secret, whatever the requests contain."""

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from gateway.config import settings
from tests.api.process import ApiProcess, api_process
from tests.helpers.factories import execute
from tests.helpers.waiting import eventually

PASSWORD = "correct horse battery staple"
CARD = "4242424242424242"
PRIVATE = "for my neighbour's birthday"
HTTP_SECONDS = 10


@pytest.fixture(params=["json", "console"])
def api(request: pytest.FixtureRequest, tmp_path: Path, database: None) -> Iterator[ApiProcess]:  # noqa: ARG001
    """Run an API that logs as much as possible."""
    environment = {
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": request.param,
        "GRANIAN_LOG_ACCESS_ENABLED": "true",
    }
    with api_process(tmp_path / "api.log", **environment) as started:
        yield started


@pytest.fixture
def rejecting_table() -> Iterator[None]:
    """Make PostgreSQL reject payments of 4711; its error contains the rejected row."""
    execute("ALTER TABLE transactions ADD CONSTRAINT no_4711 CHECK (amount <> 4711) NOT VALID")
    yield
    execute("ALTER TABLE transactions DROP CONSTRAINT no_4711")


@pytest.mark.usefixtures("rejecting_table")
def test_the_log_contains_no_secret_token_or_card_number(api: ApiProcess) -> None:
    with requests.Session() as session:

        def send(method: str, path: str, **options: object) -> requests.Response:
            return session.request(method, api.url + path, timeout=HTTP_SECONDS, **options)  # type: ignore[arg-type]

        made = send(
            "POST", "/auth/register", json={"email": "ada@example.com", "password": PASSWORD, "business_name": "Ada"}
        ).json()
        client, token = made["client"], made["access_token"]
        send("POST", "/auth/login", json={"email": "ada@example.com", "password": PASSWORD})
        send("POST", "/auth/login", json={"email": "ada@example.com", "password": PASSWORD + "!"})
        granted = send("POST", "/oauth/token", data={"grant_type": "client_credentials", **client}).json()
        send("POST", "/oauth/token", data=client, auth=(client["client_id"], client["client_secret"]))
        bearer = {
            "Authorization": f"Bearer {token}",
            "X-Request-Id": CARD,
            "Cookie": f"session={client['client_secret']}",
        }
        body = {"amount": 1000, "currency": "USD"}
        send("GET", f"/v1/transactions?reference={CARD}", headers=bearer)
        send("GET", f"/v1/transactions/{CARD}?access_token={token}", headers=bearer)
        send("GET", f"/{CARD}/{token}", headers=bearer)
        send("POST", "/v1/transactions", json=body | {"metadata": {"pan": CARD}}, headers=bearer)
        send("POST", "/v1/transactions", json=body, headers=bearer | {"Idempotency-Key": CARD})
        send("POST", "/v1/transactions", json=body, headers={"Authorization": f"Bearer {token}x"})
        refused = send(
            "POST", "/v1/transactions", json={**body, "amount": 4711, "description": PRIVATE}, headers=bearer
        )

    assert (refused.status_code, granted["token_type"]) == (500, "Bearer")
    eventually(lambda: "no_4711" in api.log.read_text(), what="the logged error")
    log = api.log.read_text()
    basic = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()
    held = (PASSWORD, client["client_secret"], basic, token, token.rpartition(".")[2], granted["access_token"])
    database_password = urlsplit(settings().database_url).password
    assert database_password
    assert [secret for secret in (*held, CARD, database_password, PRIVATE, "ada@example.com") if secret in log] == []
    assert "/[card number]/[redacted] HTTP" in log.replace('\\"', '"')  # so the access log is there too
    assert log.count("POST /auth/login 401") == 1
