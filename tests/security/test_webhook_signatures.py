"""Signatures of webhooks, verified by the library of Standard Webhooks."""

import base64
import time
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.security import webhook_signatures

pytestmark = pytest.mark.unit

BODY = '{"type":"transaction.completed","data":{"description":"Zwölf Äpfel 🍏"}}'.encode()


def headers(signature: str, timestamp: int) -> dict[str, str]:
    return {"webhook-id": "msg_1", "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def test_the_library_verifies_a_signature() -> None:
    secret, now = webhook_signatures.new_secret(), int(time.time())
    Webhook(secret).verify(BODY, headers(webhook_signatures.sign([secret], "msg_1", now, BODY), now))


def test_a_signature_equals_that_of_the_library() -> None:
    secret, at = webhook_signatures.new_secret(), datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert webhook_signatures.sign([secret], "msg_1", int(at.timestamp()), BODY) == Webhook(secret).sign(
        "msg_1", at, BODY.decode()
    )


def test_a_receiver_needs_one_of_several_signatures() -> None:
    old, new, now = webhook_signatures.new_secret(), webhook_signatures.new_secret(), int(time.time())
    signed = headers(webhook_signatures.sign([new, old], "msg_1", now, BODY), now)
    for secret in (old, new):
        Webhook(secret).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook_signatures.new_secret()).verify(BODY, signed)


def test_a_signature_is_valid_for_its_id_and_its_time_only() -> None:
    secret, now = webhook_signatures.new_secret(), int(time.time())
    signature = webhook_signatures.sign([secret], "msg_1", now, BODY)
    for changed in ({"webhook-id": "msg_2"}, {"webhook-timestamp": str(now - 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(BODY, headers(signature, now) | changed)


def test_a_secret_has_32_random_bytes() -> None:
    made = {webhook_signatures.new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32 for secret in made)
