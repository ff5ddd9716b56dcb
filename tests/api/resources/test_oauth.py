"""The token endpoint (RFC 6749, client credentials)."""

import base64
from urllib.parse import quote_plus

import pytest
from flask import Flask

from gateway.api.resources.oauth import ClientToken
from gateway.domain.merchants.accounts import MERCHANT_SCOPES
from tests.api.conftest import Answer, Caller, expect_problem
from tests.helpers.factories import execute

GRANT = {"grant_type": "client_credentials"}


def ask(merchant: Caller, headers: dict[str, str] | None = None, **fields: str) -> Answer:
    return Caller(merchant.app).call("POST", "/oauth/token", data=GRANT | fields, headers=headers or {})


def basic(client_id: str, client_secret: str) -> dict[str, str]:
    joined = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()
    return {"Authorization": f"Basic {base64.b64encode(joined).decode()}"}


def expect_oauth_error(answer: Answer, status: int, error: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["error"] == error
    assert set(answer.json) <= {"error", "error_description", "error_uri"}


def test_a_client_gets_a_token_with_its_secret_in_the_form(app: Flask, merchant: Caller) -> None:
    answer = ask(merchant, **merchant.facts["client"])

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    ClientToken.model_validate_json(answer.data)
    assert answer.json["token_type"] == "Bearer"
    assert answer.json["expires_in"] == 3600
    assert answer.json["scope"] == " ".join(MERCHANT_SCOPES)
    assert Caller(app, answer.json["access_token"]).pay().status_code == 201


def test_a_client_gets_a_token_with_http_basic(app: Flask, merchant: Caller) -> None:
    answer = ask(merchant, basic(**merchant.facts["client"]))

    assert answer.status_code == 200
    assert Caller(app, answer.json["access_token"]).pay().status_code == 201


def test_a_token_has_only_the_scopes_that_were_asked_for(app: Flask, merchant: Caller) -> None:
    answer = ask(merchant, **merchant.facts["client"], scope="transactions:read settlements:read")

    assert answer.json["scope"] == "transactions:read settlements:read"
    reader = Caller(app, answer.json["access_token"])
    assert reader.get("/v1/transactions").status_code == 200
    refused = reader.pay()
    expect_problem(refused, 403, "insufficient_scope")
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    assert 'scope="transactions:write"' in refused.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "scope", ["operations:read", "transactions:read operations:write", "everything", "TRANSACTIONS:READ"]
)
def test_a_scope_that_the_client_lacks_is_refused(merchant: Caller, scope: str) -> None:
    expect_oauth_error(ask(merchant, **merchant.facts["client"], scope=scope), 400, "invalid_scope")


def test_an_empty_scope_counts_as_none(merchant: Caller) -> None:
    assert ask(merchant, **merchant.facts["client"], scope="").json["scope"] == " ".join(MERCHANT_SCOPES)


def test_a_wrong_secret_and_an_unknown_client_are_told_the_same(merchant: Caller) -> None:
    client_id = merchant.facts["client"]["client_id"]
    answers = [
        ask(merchant, client_id=client_id, client_secret="wrong"),
        ask(merchant, client_id="cl_nobody", client_secret="wrong"),
        ask(merchant, basic(client_id, "wrong")),
        ask(merchant, basic("cl_nobody", "wrong")),
    ]

    for answer in answers:
        expect_oauth_error(answer, 401, "invalid_client")
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert len({answer.data for answer in answers}) == 1


@pytest.mark.parametrize(
    "authorization",
    ["Basic", "Basic !!!", "Basic " + base64.b64encode(b"no colon").decode(), "Basic /w==", "Bearer x", "x", "Basic ä",
     "Basic " + base64.b64encode(b"a%00b:secret").decode()],
)  # fmt: skip
def test_credentials_that_cannot_be_read_are_those_of_no_client(merchant: Caller, authorization: str) -> None:
    expect_oauth_error(ask(merchant, {"Authorization": authorization}), 401, "invalid_client")


def test_missing_credentials_are_those_of_no_client(merchant: Caller) -> None:
    expect_oauth_error(ask(merchant), 401, "invalid_client")


def test_a_revoked_client_gets_no_token(merchant: Caller) -> None:
    execute("UPDATE api_clients SET revoked_at = now()")

    expect_oauth_error(ask(merchant, **merchant.facts["client"]), 401, "invalid_client")


def test_a_secret_that_was_rotated_out_works_for_its_overlap_only(merchant: Caller) -> None:
    execute(
        "UPDATE api_clients SET previous_secret_hash = secret_hash, secret_hash = :new,"
        " previous_secret_until = now() + interval '1 hour'",
        new=b"x" * 32,
    )
    assert ask(merchant, **merchant.facts["client"]).status_code == 200

    execute("UPDATE api_clients SET previous_secret_until = now() - interval '1 second'")
    expect_oauth_error(ask(merchant, **merchant.facts["client"]), 401, "invalid_client")


def test_credentials_come_in_one_way_only(merchant: Caller) -> None:
    client = merchant.facts["client"]

    expect_oauth_error(ask(merchant, basic(**client), **client), 400, "invalid_request")


def test_another_grant_type_is_not_supported(merchant: Caller) -> None:
    answer = Caller(merchant.app).call("POST", "/oauth/token", data={"grant_type": "password"})

    expect_oauth_error(answer, 400, "unsupported_grant_type")


def test_the_name_of_the_scheme_is_taken_in_any_case(merchant: Caller) -> None:
    header = basic(**merchant.facts["client"])["Authorization"]

    assert ask(merchant, {"Authorization": header.replace("Basic", "bAsIc")}).status_code == 200


def test_an_unknown_parameter_is_ignored_and_what_stands_in_the_url_too(merchant: Caller) -> None:
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
def test_a_form_that_lacks_or_repeats_a_parameter_is_invalid(merchant: Caller, form: str) -> None:
    answer = Caller(merchant.app).call(
        "POST", "/oauth/token", data=form, content_type="application/x-www-form-urlencoded"
    )

    expect_oauth_error(answer, 400, "invalid_request")


def test_a_token_request_in_json_is_not_supported(merchant: Caller) -> None:
    answer = Caller(merchant.app).post("/oauth/token", GRANT | merchant.facts["client"])

    expect_problem(answer, 415, "unsupported_media_type")
