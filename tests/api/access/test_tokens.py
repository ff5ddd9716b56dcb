"""The validity of access tokens (docs/authentication.md), tested with one endpoint.

test_isolation.py checks that every endpoint requires a valid one.
"""

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
    """Return the claims of the merchant's token, with changes; None removes a claim."""
    claims = jwt.decode(str(merchant.token), options={"verify_signature": False}) | changes
    return {name: value for name, value in claims.items() if value is not None}


def signed(claims: dict[str, Any], key: Any = None, algorithm: str = "RS256", **header: Any) -> str:
    current = key_ring().signing()
    return jwt.encode(claims, key or current.private, algorithm, {"kid": current.key_id} | header)


def expect_rejected(app: Flask, token: str) -> None:
    response = Caller(app, token).get("/v1/transactions")
    expect_problem(response, 401, "invalid_token")
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


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


def test_a_token_can_be_verified_with_the_published_keys(anonymous: Caller, merchant: Caller) -> None:
    response = anonymous.get("/.well-known/jwks.json")

    assert response.headers["Cache-Control"] == "public, max-age=300"
    keys = jwt.PyJWKSet.from_dict(response.json)
    kid = jwt.get_unverified_header(str(merchant.token))["kid"]
    claims = jwt.decode(str(merchant.token), keys[kid], algorithms=["RS256"], audience="payment-gateway-api")
    assert claims["sub"] == merchant.facts["user"]["id"]
    assert all(set(key) == {"kty", "n", "e", "use", "alg", "kid"} for key in response.json["keys"])


def test_a_token_with_these_claims_and_our_signature_is_valid(app: Flask, merchant: Caller) -> None:
    assert Caller(app, signed(claims_of(merchant))).get("/v1/transactions").status_code == 200


def test_a_token_without_a_signature_is_rejected(app: Flask, merchant: Caller) -> None:
    def encoded(part: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    kid = key_ring().signing().key_id
    for algorithm in ("none", "None", "NONE", "nOnE"):
        head = encoded({"alg": algorithm, "typ": "JWT", "kid": kid})
        expect_rejected(app, f"{head}.{encoded(claims_of(merchant))}.")


def test_a_token_signed_with_the_public_key_as_a_secret_is_rejected(app: Flask, merchant: Caller) -> None:
    current = key_ring().signing()
    public = current.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def encoded(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    head = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": current.key_id}).encode())
    signing_input = head + b"." + encoded(json.dumps(claims_of(merchant)).encode())
    signature = encoded(hmac.digest(public, signing_input, hashlib.sha256))
    expect_rejected(app, (signing_input + b"." + signature).decode())


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
def test_a_token_with_a_wrong_or_missing_claim_is_rejected(
    app: Flask, merchant: Caller, changes: dict[str, Any]
) -> None:
    expect_rejected(app, signed(claims_of(merchant, **changes)))


def test_a_token_with_an_unknown_key_id_is_rejected(app: Flask, merchant: Caller) -> None:
    current = key_ring().signing()
    for kid in (
        "unknown",
        "",
        current.key_id.swapcase(),
        current.key_id + "\x00",
        "../../etc/passwd",
        "../../../../dev/null",
        current.path.name,
        str(current.path),
        f"../{current.path.parent.name}/{current.path.name}",
    ):
        expect_rejected(app, signed(claims_of(merchant), kid=kid))
        expect_rejected(app, signed(claims_of(merchant), STRANGER, kid=kid))


def test_a_token_signed_with_another_key_is_rejected(app: Flask, merchant: Caller) -> None:
    expect_rejected(app, signed(claims_of(merchant), STRANGER))


def test_a_token_signed_with_another_algorithm_is_rejected(app: Flask, merchant: Caller) -> None:
    expect_rejected(app, signed(claims_of(merchant), algorithm="RS512"))


def test_a_token_whose_claims_were_changed_is_rejected(app: Flask, merchant: Caller) -> None:
    head, _, signature = str(merchant.token).split(".")
    body = json.dumps(claims_of(merchant, scope="operations:write")).encode()
    expect_rejected(app, f"{head}.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}.{signature}")


@pytest.mark.parametrize("token", ["x", "x.y", "x.y.z", "...", "e30.e30.e30", "W10.W10.W10", "ä.ö.ü", "a" * 8000])
def test_text_that_is_not_a_token_is_rejected(app: Flask, database: None, token: str) -> None:  # noqa: ARG001
    expect_rejected(app, token)


def test_a_token_with_a_deeply_nested_header_is_rejected(app: Flask, database: None) -> None:  # noqa: ARG001
    deep = base64.urlsafe_b64encode(b'{"a":' * 5000).rstrip(b"=").decode()
    expect_rejected(app, f"{deep}.{deep}.x")


@pytest.mark.parametrize("kid", [7, ["x"], {"a": 1}, True])
def test_a_token_whose_key_id_is_not_a_string_is_rejected(app: Flask, merchant: Caller, kid: Any) -> None:
    head = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "kid": kid}).encode()).rstrip(b"=").decode()
    expect_rejected(app, ".".join([head, *str(merchant.token).split(".")[1:]]))


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_is_case_insensitive(app: Flask, merchant: Caller, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {merchant.token}"}

    assert Caller(app).get("/v1/transactions", headers=headers).status_code == 200


@pytest.mark.parametrize("authorization", [None, "", "Basic YTpi", "Token x", "bearer", "Bearer "])
def test_without_a_bearer_token_authentication_is_required(anonymous: Caller, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}

    response = anonymous.get("/v1/transactions", headers=headers)

    expect_problem(response, 401, "authentication_required")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_token_of_a_host_whose_clock_is_slightly_ahead_is_valid(app: Flask, merchant: Caller) -> None:
    now = int(time.time())

    assert Caller(app, signed(claims_of(merchant, iat=now + 3))).get("/v1/transactions").status_code == 200
    expect_rejected(app, signed(claims_of(merchant, iat=now + 60)))


def test_an_expired_token_is_rejected(app: Flask, merchant: Caller) -> None:
    expect_rejected(app, signed(claims_of(merchant, exp=int(time.time()))))


def test_a_token_expires_although_its_verification_is_cached(app: Flask, merchant: Caller) -> None:
    caller = Caller(app, signed(claims_of(merchant, exp=int(time.time()) + 2)))
    assert caller.get("/v1/transactions").status_code == 200

    eventually(lambda: caller.get("/v1/transactions").status_code == 401, within=5, what="the expiry")


def test_the_token_of_an_operator_has_the_scopes_of_operators_and_no_merchant(operator: Caller) -> None:
    claims = claims_of(operator)

    assert claims["scope"] == " ".join(OPERATOR_SCOPES)
    assert "merchant_id" not in claims  # None was dropped by claims_of
