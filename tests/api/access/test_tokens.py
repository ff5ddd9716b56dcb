"""Which tokens are trusted (api.md, Authentication)."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask

from gateway.domain.merchants.accounts import MERCHANT_SCOPES, OPERATOR_SCOPES
from gateway.security.signing_keys import key_ring
from tests.api.conftest import Caller, expect_problem
from tests.helpers.waiting import eventually

STRANGER = rsa.generate_private_key(65537, 2048)


def claims_of(merchant: Caller, **changes: Any) -> dict[str, Any]:
    """The claims of the merchant's own token, with changes; None removes one."""
    claims = jwt.decode(str(merchant.token), options={"verify_signature": False}) | changes
    return {name: value for name, value in claims.items() if value is not None}


def signed(claims: dict[str, Any], key: Any = None, algorithm: str = "RS256", **header: Any) -> str:
    current = key_ring().signing()
    return jwt.encode(claims, key or current.private, algorithm, {"kid": current.key_id} | header)


def expect_refused(app: Flask, token: str) -> None:
    answer = Caller(app, token).get("/v1/transactions")
    expect_problem(answer, 401, "invalid_token")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_a_token_has_the_claims_of_the_contract(merchant: Caller) -> None:
    header = jwt.get_unverified_header(str(merchant.token))
    claims = claims_of(merchant)

    assert (header["alg"], header["kid"]) == ("RS256", key_ring().signing().key_id)
    assert claims["sub"] == merchant.facts["user"]["id"]
    assert claims["merchant_id"] == str(merchant.merchant_id)
    assert claims["scope"] == " ".join(MERCHANT_SCOPES)
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["iss"] == "payment-gateway"
    assert claims["aud"] == "payment-gateway-api"
    assert claims["jti"]


def test_a_token_verifies_with_the_published_keys(anonymous: Caller, merchant: Caller) -> None:
    answer = anonymous.get("/.well-known/jwks.json")

    assert answer.headers["Cache-Control"] == "public, max-age=300"
    keys = jwt.PyJWKSet.from_dict(answer.json)
    kid = jwt.get_unverified_header(str(merchant.token))["kid"]
    claims = jwt.decode(str(merchant.token), keys[kid], algorithms=["RS256"], audience="payment-gateway-api")
    assert claims["sub"] == merchant.facts["user"]["id"]
    assert all(set(key) == {"kty", "n", "e", "use", "alg", "kid"} for key in answer.json["keys"])


def test_a_resigned_token_is_trusted(app: Flask, merchant: Caller) -> None:
    assert Caller(app, signed(claims_of(merchant))).get("/v1/transactions").status_code == 200


def test_a_token_without_a_signature_is_refused(app: Flask, merchant: Caller) -> None:
    def encoded(part: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    kid = key_ring().signing().key_id
    for algorithm in ("none", "None", "NONE", "nOnE"):
        head = encoded({"alg": algorithm, "typ": "JWT", "kid": kid})
        expect_refused(app, f"{head}.{encoded(claims_of(merchant))}.")


def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(app: Flask, merchant: Caller) -> None:
    current = key_ring().signing()
    public = current.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def encoded(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    head = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": current.key_id}).encode())
    signing_input = head + b"." + encoded(json.dumps(claims_of(merchant)).encode())
    signature = encoded(hmac.digest(public, signing_input, hashlib.sha256))
    expect_refused(app, (signing_input + b"." + signature).decode())


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another-api"},
        {"aud": None},
        {"iss": "another-issuer"},
        {"iss": None},
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"iat": 2**40},
        {"iat": None},
        {"sub": None},
        {"sub": 7},
        {"jti": None},
        {"scope": None},
        {"scope": ["transactions:read"]},
        {"merchant_id": "not-an-id"},
        {"merchant_id": 7},
        {"type": "refresh"},
    ],
)
def test_a_token_with_a_wrong_or_missing_claim_is_refused(
    app: Flask, merchant: Caller, changes: dict[str, Any]
) -> None:
    expect_refused(app, signed(claims_of(merchant, **changes)))


@pytest.mark.parametrize("header", [{"kid": "unknown"}, {"kid": ""}, {"kid": "../../etc/passwd"}])
def test_a_token_that_names_no_key_of_ours_is_refused(app: Flask, merchant: Caller, header: dict[str, Any]) -> None:
    expect_refused(app, signed(claims_of(merchant), STRANGER, **header))


def test_a_token_signed_by_a_stranger_is_refused(app: Flask, merchant: Caller) -> None:
    expect_refused(app, signed(claims_of(merchant), STRANGER))


def test_a_token_signed_with_another_algorithm_is_refused(app: Flask, merchant: Caller) -> None:
    expect_refused(app, signed(claims_of(merchant), algorithm="RS512"))


def test_a_token_whose_claims_were_changed_is_refused(app: Flask, merchant: Caller) -> None:
    head, _, signature = str(merchant.token).split(".")
    body = json.dumps(claims_of(merchant, scope="operations:write")).encode()
    expect_refused(app, f"{head}.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}.{signature}")


@pytest.mark.parametrize("token", ["x", "x.y", "x.y.z", "...", "e30.e30.e30", "W10.W10.W10", "ä.ö.ü", "a" * 8000])
def test_what_is_no_token_is_refused(app: Flask, database: None, token: str) -> None:  # noqa: ARG001
    expect_refused(app, token)


def test_a_deeply_nested_header_is_refused(app: Flask, database: None) -> None:  # noqa: ARG001
    deep = base64.urlsafe_b64encode(b'{"a":' * 5000).rstrip(b"=").decode()
    expect_refused(app, f"{deep}.{deep}.x")


@pytest.mark.parametrize("kid", [7, ["x"], {"a": 1}, True])
def test_a_key_id_that_is_not_text_is_refused(app: Flask, merchant: Caller, kid: Any) -> None:
    head = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "kid": kid}).encode()).rstrip(b"=").decode()
    expect_refused(app, ".".join([head, *str(merchant.token).split(".")[1:]]))


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(app: Flask, merchant: Caller, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {merchant.token}"}

    assert Caller(app).get("/v1/transactions", headers=headers).status_code == 200


@pytest.mark.parametrize("authorization", [None, "", "Basic YTpi", "Token x", "bearer", "Bearer "])
def test_without_a_bearer_token_authentication_is_required(anonymous: Caller, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}

    answer = anonymous.get("/v1/transactions", headers=headers)

    expect_problem(answer, 401, "authentication_required")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_token_of_a_host_whose_clock_is_a_little_ahead_is_trusted(app: Flask, merchant: Caller) -> None:
    now = int(time.time())

    assert Caller(app, signed(claims_of(merchant, iat=now + 3))).get("/v1/transactions").status_code == 200
    expect_refused(app, signed(claims_of(merchant, iat=now + 60)))


def test_a_token_is_refused_as_soon_as_it_has_expired(app: Flask, merchant: Caller) -> None:
    expect_refused(app, signed(claims_of(merchant, exp=int(time.time()))))


def test_a_token_that_worked_expires(app: Flask, merchant: Caller) -> None:
    caller = Caller(app, signed(claims_of(merchant, exp=int(time.time()) + 2)))
    assert caller.get("/v1/transactions").status_code == 200

    eventually(lambda: caller.get("/v1/transactions").status_code == 401, within=5, what="the expiry")


def test_a_token_of_an_operator_has_the_scopes_of_operators_and_no_merchant(operator: Caller) -> None:
    claims = claims_of(operator)

    assert claims["scope"] == " ".join(OPERATOR_SCOPES)
    assert "merchant_id" not in claims  # None was dropped by claims_of


MERCHANT_ROUTES = [
    ("POST", "/v1/transactions"),
    ("GET", "/v1/transactions"),
    ("GET", "/v1/transactions/01a203ac-0af0-72d9-8fb4-1064eca29cd1"),
    ("GET", "/v1/settlements"),
    ("GET", "/v1/settlements/01a203ac-0af0-72d9-8fb4-1064eca29cd1"),
    ("GET", "/v1/api-clients"),
    ("POST", "/v1/api-clients"),
    ("GET", "/v1/api-clients/01a203ac-0af0-72d9-8fb4-1064eca29cd1"),
    ("POST", "/v1/api-clients/01a203ac-0af0-72d9-8fb4-1064eca29cd1/rotate"),
    ("DELETE", "/v1/api-clients/01a203ac-0af0-72d9-8fb4-1064eca29cd1"),
]
OPERATOR_ROUTES = [
    ("GET", "/v1/dead-letters"),
    ("GET", "/v1/dead-letters/01a203ac-0af0-72d9-8fb4-1064eca29cd1"),
    ("POST", "/v1/dead-letters/01a203ac-0af0-72d9-8fb4-1064eca29cd1/replay"),
    ("POST", "/v1/dead-letters/01a203ac-0af0-72d9-8fb4-1064eca29cd1/discard"),
]


@pytest.mark.parametrize(("method", "path"), MERCHANT_ROUTES + OPERATOR_ROUTES)
def test_everything_under_v1_needs_a_token(anonymous: Caller, method: str, path: str) -> None:
    expect_problem(anonymous.call(method, path), 401, "authentication_required")


@pytest.mark.parametrize(("method", "path"), MERCHANT_ROUTES)
def test_an_operator_may_not_act_for_merchants(operator: Caller, method: str, path: str) -> None:
    expect_problem(operator.call(method, path), 403, "insufficient_scope")


@pytest.mark.parametrize(("method", "path"), OPERATOR_ROUTES)
def test_a_merchant_may_not_act_for_operators(merchant: Caller, method: str, path: str) -> None:
    expect_problem(merchant.call(method, path), 403, "insufficient_scope")
