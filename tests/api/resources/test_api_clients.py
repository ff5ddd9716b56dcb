"""Create, list, rotate and delete API clients."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from gateway.api.http.schemas import page_of
from gateway.api.resources.api_clients import ApiClient, ApiClientWithSecret
from gateway.db import autocommit
from gateway.domain.merchants import accounts, api_clients
from gateway.domain.merchants.accounts import MERCHANT_SCOPES
from tests.api.conftest import Caller, Response, expect_problem, field_errors
from tests.helpers.factories import count, execute
from tests.helpers.waiting import eventually

PATH = "/v1/api-clients"
READER = {"name": "Reports", "scopes": ["transactions:read"]}


def make(caller: Caller, **fields: Any) -> dict[str, Any]:
    response = caller.post(PATH, READER | fields)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json
    return made


def ask_token(app: Flask, client_id: str, client_secret: str) -> Response:
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret}
    return Caller(app).call("POST", "/oauth/token", data=form)


def works(app: Flask, client_id: str, client_secret: str) -> bool:
    return ask_token(app, client_id, client_secret).status_code == 200


def program(caller: Caller, *scopes: str) -> Caller:
    """Return a caller with the token of a new API client that has these scopes."""
    made = make(caller, scopes=list(scopes))
    token = ask_token(caller.app, made["client_id"], made["client_secret"]).json["access_token"]
    return Caller(caller.app, token, made)


def test_a_new_client_shows_its_secret_once(app: Flask, merchant: Caller) -> None:
    response = merchant.post(PATH, {"name": "Web shop", "scopes": ["transactions:write", "transactions:read"]})

    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    ApiClientWithSecret.model_validate_json(response.data)
    made = response.json
    assert response.headers["Location"] == f"{PATH}/{made['id']}"
    assert (made["object"], made["name"]) == ("api_client", "Web shop")
    assert made["scopes"] == ["transactions:write", "transactions:read"]
    assert count("api_clients", f"secret_hash = convert_to('{made['client_secret']}', 'UTF8')") == 0
    token = ask_token(app, made["client_id"], made["client_secret"]).json
    assert token["scope"] == "transactions:write transactions:read"
    assert Caller(app, token["access_token"]).pay().status_code == 201

    read = merchant.get(f"{PATH}/{made['id']}")

    ApiClient.model_validate_json(read.data)
    assert read.json == {name: value for name, value in made.items() if name != "client_secret"}
    listed = merchant.get(PATH)
    page_of(ApiClient).model_validate_json(listed.data)
    assert listed.json["data"][0] == read.json
    assert "secret" not in read.text.replace("previous_secret_expires_at", "")


def test_clients_are_listed_in_pages_including_the_one_of_the_registration(merchant: Caller) -> None:
    made = [make(merchant, name=f"Client {n}")["id"] for n in range(3)]

    first = merchant.get(f"{PATH}?limit=2").json
    second = merchant.get(f"{PATH}?limit=2&cursor={first['next_cursor']}").json

    assert [one["id"] for one in first["data"]] == [made[2], made[1]]
    assert [one["name"] for one in second["data"]] == ["Client 0", "default"]
    assert second["next_cursor"] is None
    expect_problem(merchant.get(f"{PATH}?cursor=x"), 400, "invalid_cursor")


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"name": ""}, "/name", "invalid_length"),
        ({"name": " \t"}, "/name", "invalid_length"),
        ({"name": "n" * 101}, "/name", "invalid_length"),
        ({"name": None}, "/name", "invalid_type"),
        ({"scopes": []}, "/scopes", "invalid_length"),
        ({"scopes": ["transactions:read", "transactions:read"]}, "/scopes", "duplicate"),
        ({"scopes": ["operations:read"]}, "/scopes/0", "invalid_choice"),
        ({"scopes": ["transactions:read", "everything"]}, "/scopes/1", "invalid_choice"),
        ({"scopes": ["TRANSACTIONS:READ"]}, "/scopes/0", "invalid_choice"),
        ({"scopes": "transactions:read"}, "/scopes", "invalid_type"),
        ({"scopes": [7]}, "/scopes/0", "invalid_choice"),
        ({"scopes": None}, "/scopes", "invalid_type"),
    ],
)
def test_an_invalid_client_is_rejected(merchant: Caller, fields: dict[str, object], pointer: str, code: str) -> None:
    response = merchant.post(PATH, READER | fields)

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {pointer: code}
    assert count("api_clients") == 1


@pytest.mark.parametrize("field", ["merchant_id", "client_id", "client_secret"])
def test_the_merchant_and_the_credentials_of_a_client_cannot_be_set(merchant: Caller, field: str) -> None:
    expect_problem(merchant.post(PATH, READER | {field: "x"}), 422, "unknown_field")


def test_a_name_of_100_characters_of_any_script_is_accepted(merchant: Caller) -> None:
    assert make(merchant, name="店" * 100)["name"] == "店" * 100


def test_a_caller_can_grant_only_scopes_that_it_has(merchant: Caller) -> None:
    manager = program(merchant, "clients:manage", "transactions:read")

    assert manager.post(PATH, READER).status_code == 201
    refused = manager.post(PATH, READER | {"scopes": ["transactions:read", "refunds:write"]})

    expect_problem(refused, 403, "insufficient_scope")
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    assert count("api_clients", "'refunds:write' = ANY(scopes)") == 1  # the one of the registration


def test_a_caller_cannot_rotate_a_client_with_more_scopes(merchant: Caller) -> None:
    manager = program(merchant, "clients:manage", "transactions:read")
    powerful = make(merchant, scopes=["transactions:write"])

    expect_problem(manager.post(f"{PATH}/{powerful['id']}/rotate"), 403, "insufficient_scope")

    assert works(merchant.app, powerful["client_id"], powerful["client_secret"])
    assert count("api_clients", "previous_secret_hash IS NOT NULL") == 0


def test_after_a_rotation_the_previous_secret_is_valid_for_24_hours(app: Flask, merchant: Caller) -> None:
    made = make(merchant)

    response = merchant.post(f"{PATH}/{made['id']}/rotate")

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    ApiClientWithSecret.model_validate_json(response.data)
    rotated = response.json
    assert rotated["client_id"] == made["client_id"]
    assert rotated["client_secret"] != made["client_secret"]
    assert rotated["previous_secret_expires_at"] > rotated["created_at"]
    assert count("api_clients", "previous_secret_until BETWEEN now() + '1439 min' AND now() + '1440 min'") == 1
    assert works(app, made["client_id"], rotated["client_secret"])
    assert works(app, made["client_id"], made["client_secret"])

    execute("UPDATE api_clients SET previous_secret_until = now() WHERE previous_secret_until IS NOT NULL")

    assert works(app, made["client_id"], rotated["client_secret"])
    assert not works(app, made["client_id"], made["client_secret"])
    assert merchant.get(f"{PATH}/{made['id']}").json["previous_secret_expires_at"] is None


def test_a_second_rotation_invalidates_the_first_secret(app: Flask, merchant: Caller) -> None:
    made = make(merchant)
    shown = [made["client_secret"]]
    shown += [merchant.post(f"{PATH}/{made['id']}/rotate").json["client_secret"] for _ in range(2)]

    assert [works(app, made["client_id"], secret) for secret in shown] == [False, True, True]


def test_a_rotation_does_not_revoke_tokens(merchant: Caller) -> None:
    client = program(merchant, "transactions:read")
    merchant.post(f"{PATH}/{client.facts['id']}/rotate")

    assert client.get("/v1/transactions").status_code == 200


def test_deleting_a_client_invalidates_its_secrets_and_tokens_immediately(app: Flask, merchant: Caller) -> None:
    client = program(merchant, "transactions:read")
    path = f"{PATH}/{client.facts['id']}"
    new_secret = merchant.post(f"{path}/rotate").json["client_secret"]
    assert client.get("/v1/transactions").status_code == 200

    response = merchant.call("DELETE", path)

    assert (response.status_code, response.data) == (204, b"")
    refused = client.get("/v1/transactions")
    expect_problem(refused, 401, "invalid_token")
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert not works(app, client.facts["client_id"], client.facts["client_secret"])
    assert not works(app, client.facts["client_id"], new_secret)
    gone = [merchant.get(path), merchant.call("DELETE", path), merchant.post(f"{path}/rotate")]
    assert [expect_problem(one, 404, "not_found")["detail"] for one in gone] == ["The resource does not exist"] * 3
    assert [one["name"] for one in merchant.get(PATH).json["data"]] == ["default"]


def test_a_client_that_another_process_deleted_is_rejected_within_two_seconds(merchant: Caller) -> None:
    client = program(merchant, "transactions:read")
    assert client.get("/v1/transactions").status_code == 200
    with autocommit() as connection:
        api_clients.revoke(connection, merchant.merchant_id, UUID(client.facts["id"]), "user:elsewhere")

    eventually(lambda: client.get("/v1/transactions").status_code == 401, within=2, what="the revocation")
    assert merchant.get("/v1/transactions").status_code == 200


def test_a_client_may_delete_itself(merchant: Caller) -> None:
    manager = program(merchant, "clients:manage")

    assert manager.call("DELETE", f"{PATH}/{manager.facts['id']}").status_code == 204
    expect_problem(manager.get(PATH), 401, "invalid_token")


def test_every_action_is_in_the_audit_log_without_a_secret(merchant: Caller) -> None:
    manager = program(merchant, "clients:manage", "transactions:read")
    made = make(manager)
    rotated = manager.post(f"{PATH}/{made['id']}/rotate").json
    manager.call("DELETE", f"{PATH}/{made['id']}")

    for action in ("created", "rotated", "revoked"):
        where = f"subject = '{made['id']}' AND action = 'api_client.{action}'"
        assert count("audit_log", f"{where} AND actor = 'client:{manager.facts['client_id']}'") == 1
    assert count("audit_log", f"actor = 'user:{merchant.facts['user']['id']}'") == 1
    for secret in (made["client_secret"], rotated["client_secret"]):
        assert count("audit_log", f"detail::text LIKE '%{secret}%'") == 0


def test_the_number_of_clients_is_limited_even_for_concurrent_requests(
    merchant: Caller, other_merchant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_clients, "CLIENTS_MAX", 4)

    with ThreadPoolExecutor(6) as threads:
        responses = list(threads.map(lambda _: merchant.post(PATH, READER), range(6)))

    assert sorted(response.status_code for response in responses) == [201] * 3 + [409] * 3
    expect_problem(next(response for response in responses if response.status_code == 409), 409, "too_many_api_clients")
    made = next(response.json for response in responses if response.status_code == 201)
    merchant.call("DELETE", f"{PATH}/{made['id']}")
    assert merchant.post(PATH, READER).status_code == 201
    assert other_merchant.post(PATH, READER).status_code == 201


def test_deleted_clients_count_while_their_tokens_could_be_valid(
    merchant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_clients, "CLIENTS_REMEMBERED_MAX", 3)
    for _ in range(2):
        merchant.call("DELETE", f"{PATH}/{make(merchant)['id']}")

    expect_problem(merchant.post(PATH, READER), 409, "too_many_api_clients")

    execute("UPDATE api_clients SET revoked_at = revoked_at - interval '25 hours'")
    assert merchant.post(PATH, READER).status_code == 201


def test_creating_a_client_does_not_block_payments(merchant: Caller) -> None:
    with ThreadPoolExecutor(1) as threads, autocommit() as connection:
        connection.exec_driver_sql("BEGIN")
        api_clients.create(connection, merchant.merchant_id, name="Slow", scopes=["refunds:write"], actor="test")
        assert threads.submit(merchant.pay).result(timeout=10).status_code == 201
        connection.exec_driver_sql("ROLLBACK")


def test_the_token_of_a_deleted_merchant_is_rejected(merchant: Caller) -> None:
    assert merchant.get("/v1/transactions").status_code == 200
    for table in ("users", "api_clients", "merchants"):
        execute(f"DELETE FROM {table}")  # noqa: S608

    keyed = {"Idempotency-Key": "order-1"}
    for response in (merchant.pay(), merchant.pay(headers=keyed), merchant.post(PATH, READER)):
        expect_problem(response, 401, "invalid_token")
        assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert count("transactions") == count("outbox") == count("idempotency_records") == 0


def test_the_client_of_the_registration_is_like_any_other(app: Flask, merchant: Caller) -> None:
    [first] = merchant.get(PATH).json["data"]

    assert first["client_id"] == merchant.facts["client"]["client_id"]
    assert first["scopes"] == list(MERCHANT_SCOPES)
    rotated = merchant.post(f"{PATH}/{first['id']}/rotate").json
    assert works(app, first["client_id"], rotated["client_secret"])
    with autocommit() as connection:
        found = accounts.authenticate_client(connection, first["client_id"], rotated["client_secret"])
    assert found is not None
