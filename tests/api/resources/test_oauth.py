"""The token endpoint for client credentials (RFC 6749)."""

import base64
from urllib.parse import quote_plus

import pytest
from flask import Flask

from gateway.api.resources.oauth import ClientToken
from gateway.domain.merchants.accounts import MERCHANT_SCOPES
from tests.api.conftest import Caller, Response, expect_problem
from tests.helpers.factories import execute

GRANT = {"grant_type": "client_credentials"}


def ask(merchant: Caller, headers: dict[str, str] | None = None, **fields: str) -> Response:
    return Caller(merchant.app).call("POST", "/oauth/token", data=GRANT | fields, headers=headers or {})


def basic(client_id: str, client_secret: str) -> dict[str, str]:
    joined = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()
    return {"Authorization": f"Basic {base64.b64encode(joined).decode()}"}


def expect_oauth_error(response: Response, status: int, error: str) -> None:
    assert response.status_code == status, response.text
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json["error"] == error
    assert set(response.json) <= {"error", "error_description", "error_uri"}


def test_a_client_gets_a_token_with_credentials_in_the_form(app: Flask, merchant: Caller) -> None:
    response = ask(merchant, **merchant.facts["client"])

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    ClientToken.model_validate_json(response.data)
    assert response.json["token_type"] == "Bearer"
    assert response.json["expires_in"] == 3600
    assert response.json["scope"] == " ".join(MERCHANT_SCOPES)
    assert Caller(app, response.json["access_token"]).pay().status_code == 201


def test_a_client_gets_a_token_by_http_basic(app: Flask, merchant: Caller) -> None:
    response = ask(merchant, basic(**merchant.facts["client"]))

    assert response.status_code == 200
    assert Caller(app, response.json["access_token"]).pay().status_code == 201


def test_a_token_has_only_the_requested_scopes(app: Flask, merchant: Caller) -> None:
    response = ask(merchant, **merchant.facts["client"], scope="transactions:read settlements:read")

    assert response.json["scope"] == "transactions:read settlements:read"
    reader = Caller(app, response.json["access_token"])
    assert reader.get("/v1/transactions").status_code == 200
    refused = reader.pay()
    expect_problem(refused, 403, "insufficient_scope")
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    assert 'scope="transactions:write"' in refused.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "scope", ["operations:read", "transactions:read operations:write", "everything", "TRANSACTIONS:READ"]
)
def test_a_scope_that_the_client_does_not_have_is_rejected(merchant: Caller, scope: str) -> None:
    expect_oauth_error(ask(merchant, **merchant.facts["client"], scope=scope), 400, "invalid_scope")


def test_an_empty_scope_is_an_omitted_one(merchant: Caller) -> None:
    assert ask(merchant, **merchant.facts["client"], scope="").json["scope"] == " ".join(MERCHANT_SCOPES)


def test_a_wrong_secret_and_an_unknown_client_have_the_same_response(merchant: Caller) -> None:
    client_id = merchant.facts["client"]["client_id"]
    responses = [
        ask(merchant, client_id=client_id, client_secret="wrong"),
        ask(merchant, client_id="cl_nobody", client_secret="wrong"),
        ask(merchant, basic(client_id, "wrong")),
        ask(merchant, basic("cl_nobody", "wrong")),
    ]

    for response in responses:
        expect_oauth_error(response, 401, "invalid_client")
        assert response.headers["WWW-Authenticate"].startswith("Basic")
    assert len({response.data for response in responses}) == 1


@pytest.mark.parametrize(
    "authorization",
    ["Basic", "Basic !!!", "Basic " + base64.b64encode(b"no colon").decode(), "Basic /w==", "Bearer x", "x", "Basic ä",
     "Basic " + base64.b64encode(b"a%00b:secret").decode()],
)  # fmt: skip
def test_malformed_credentials_are_rejected(merchant: Caller, authorization: str) -> None:
    expect_oauth_error(ask(merchant, {"Authorization": authorization}), 401, "invalid_client")


def test_missing_credentials_are_rejected(merchant: Caller) -> None:
    expect_oauth_error(ask(merchant), 401, "invalid_client")


def test_a_revoked_client_gets_no_token(merchant: Caller) -> None:
    execute("UPDATE api_clients SET revoked_at = now()")

    expect_oauth_error(ask(merchant, **merchant.facts["client"]), 401, "invalid_client")


def test_a_previous_secret_is_valid_until_it_expires(merchant: Caller) -> None:
    execute(
        "UPDATE api_clients SET previous_secret_hash = secret_hash, secret_hash = :new,"
        " previous_secret_until = now() + interval '1 hour'",
        new=b"x" * 32,
    )
    assert ask(merchant, **merchant.facts["client"]).status_code == 200

    execute("UPDATE api_clients SET previous_secret_until = now() - interval '1 second'")
    expect_oauth_error(ask(merchant, **merchant.facts["client"]), 401, "invalid_client")


def test_credentials_in_the_form_and_by_http_basic_are_rejected(merchant: Caller) -> None:
    client = merchant.facts["client"]

    expect_oauth_error(ask(merchant, basic(**client), **client), 400, "invalid_request")


def test_an_unsupported_grant_type_is_rejected(merchant: Caller) -> None:
    response = Caller(merchant.app).call("POST", "/oauth/token", data={"grant_type": "password"})

    expect_oauth_error(response, 400, "unsupported_grant_type")


def test_the_scheme_is_case_insensitive(merchant: Caller) -> None:
    header = basic(**merchant.facts["client"])["Authorization"]

    assert ask(merchant, {"Authorization": header.replace("Basic", "bAsIc")}).status_code == 200


def test_unknown_parameters_and_the_query_string_are_ignored(merchant: Caller) -> None:
    client = merchant.facts["client"]
    call = Caller(merchant.app).call

    assert ask(merchant, **client, resource="https://api.example.com").status_code == 200
    in_the_url = call("POST", "/oauth/token", query_string=GRANT | client, data={"x": "y"})
    expect_oauth_error(in_the_url, 400, "invalid_request")


@pytest.mark.parametrize(
    "form",
    ["", "grant_type=", "grant_type=client_credentials&grant_type=client_credentials", "grant_type=%ff", "a=%00",
     *(f"grant_type=client_credentials&client_id=a&client_secret=b&{name}=a&{name}=a"
       for name in ("client_id", "client_secret", "scope", "resource"))],
)  # fmt: skip
def test_a_form_with_a_missing_or_repeated_parameter_is_rejected(merchant: Caller, form: str) -> None:
    response = Caller(merchant.app).call(
        "POST", "/oauth/token", data=form, content_type="application/x-www-form-urlencoded"
    )

    expect_oauth_error(response, 400, "invalid_request")


def test_a_token_request_in_json_is_rejected(merchant: Caller) -> None:
    response = Caller(merchant.app).post("/oauth/token", GRANT | merchant.facts["client"])

    expect_problem(response, 415, "unsupported_media_type")
