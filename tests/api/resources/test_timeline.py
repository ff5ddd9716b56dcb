"""Retrieve the timeline of a transaction."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from gateway.api.resources.timeline import Timeline
from gateway.db import begin
from gateway.domain.dead_letters import resolution
from gateway.domain.payments.timeline import ENTRIES_MAX, of_transaction
from gateway.flows.settlement import settle
from gateway.ids import new_id
from tests.api.conftest import Caller
from tests.helpers.captured_sql import statements
from tests.helpers.factories import accept_payment, execute, route_payments
from tests.helpers.lifecycles import ACTOR, completed, dead_lettered, dead_lettered_refund, replayed
from tests.helpers.refunds import paid

ATTEMPT = ["attempt.started", "attempt.finished"]


def timeline(caller: Caller, id: object) -> list[dict[str, Any]]:
    response = caller.get(f"/v1/transactions/{id}/timeline")
    assert response.status_code == 200, response.text
    Timeline.model_validate_json(response.data)
    entries: list[dict[str, Any]] = response.json["data"]
    times = [entry["at"] for entry in entries[1:]]
    assert times == sorted(times)
    return entries


def types(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["type"] for entry in entries]


def of_type(entries: list[dict[str, Any]], type: str) -> list[dict[str, Any]]:
    return [entry["detail"] for entry in entries if entry["type"] == type]


def test_the_timeline_of_a_completed_payment_is_complete(merchant: Caller) -> None:
    id = completed(merchant.merchant_id)

    entries = timeline(merchant, id)

    assert types(entries) == [
        "transaction.created", "transaction.routed", *ATTEMPT, "transaction.completed", "settlement.completed",
    ]  # fmt: skip
    created, routed, started, finished, done, settled = (entry["detail"] for entry in entries)
    assert created == {"amount": 1_000, "currency": "USD"}
    assert (routed["provider"], bool(routed["reason"])) == ("simulated", True)
    assert started == {"number": 1, "provider": "simulated", "delay_ms": None}
    assert finished.pop("duration_ms") >= 0
    assert finished == {"number": 1, "outcome": "approved", "code": None, "message": None}
    assert done == {"attempts": 1}
    shown = merchant.get(f"/v1/settlements/{settled['settlement_id']}").json
    assert {name: shown[name] for name in ("amount", "fee", "net")} | {"settlement_id": shown["id"]} == settled
    assert entries[0]["at"] == merchant.get(f"/v1/transactions/{id}").json["created_at"]


def test_a_retry_shows_its_delay(merchant: Caller) -> None:
    [id] = route_payments(merchant.merchant_id, "tok_error_once")
    settle([id], "task-1")
    execute("""UPDATE charge_attempts SET started_at = now() - interval '3.4 s', finished_at = now() - interval '3 s'
               WHERE transaction_id = :id""", id=id)  # fmt: skip
    execute("UPDATE transactions SET created_at = now() - interval '9 s', routed_at = now() - interval '8 s'")
    settle([id], "task-1")

    entries = timeline(merchant, id)

    assert types(entries)[2:6] == ATTEMPT * 2
    first, second = of_type(entries, "attempt.started")
    assert (first["delay_ms"], first["number"], second["number"]) == (None, 1, 2)
    assert 3_000 <= second["delay_ms"] < 4_000
    failed = of_type(entries, "attempt.finished")[0]
    assert (failed["outcome"], failed["code"], failed["duration_ms"]) == ("unavailable", "provider_error", 400)
    assert failed["message"]


def test_the_timeline_of_a_declined_payment_ends_with_its_failure(merchant: Caller) -> None:
    [id] = route_payments(merchant.merchant_id, "tok_decline_fraud")
    settle([id], "task-1")

    entries = timeline(merchant, id)

    failure = merchant.get(f"/v1/transactions/{id}").json["failure"]
    assert types(entries)[-1] == "transaction.failed"
    assert entries[-1]["detail"] == {name: failure[name] for name in ("code", "message", "category")}


def test_the_timeline_of_a_canceled_payment_ends_with_the_cancellation(merchant: Caller) -> None:
    id = merchant.pay().json["id"]
    canceled = merchant.post(f"/v1/transactions/{id}/cancel").json

    entries = timeline(merchant, id)

    assert types(entries) == ["transaction.created", "transaction.canceled"]
    assert entries[1] == {"at": canceled["updated_at"], "type": "transaction.canceled", "detail": {}}


def test_the_timeline_shows_dead_letter_and_replay_without_the_operators_name(merchant: Caller) -> None:
    id = replayed(merchant.merchant_id)
    execute("UPDATE transactions SET payment_method = 'tok_approve' WHERE id = :id", id=id)
    settle([id], "task-2")

    entries = timeline(merchant, id)

    assert types(entries) == [
        "transaction.created", "transaction.routed", *ATTEMPT * 4, "transaction.dead_lettered", "transaction.replayed",
        *ATTEMPT, "transaction.completed", "settlement.completed",
    ]  # fmt: skip
    assert of_type(entries, "transaction.dead_lettered") == [{"reason": "rejected", "attempts": 4}]
    assert of_type(entries, "transaction.replayed") == [{"by": "operator"}]
    assert ACTOR not in str(entries)


def test_the_timeline_of_a_discarded_payment_ends_with_its_failure(merchant: Caller) -> None:
    id, letter_id = dead_lettered(merchant.merchant_id)
    with begin() as connection:
        resolution.discard(connection, letter_id, ACTOR, "Paid in cash.")

    entries = timeline(merchant, id)

    assert types(entries)[-3:] == ["transaction.dead_lettered", "transaction.discarded", "transaction.failed"]
    assert entries[-1]["detail"] == {"code": "discarded", "message": "Paid in cash.", "category": "discarded"}
    assert ACTOR not in str(entries)


def test_an_exception_of_a_provider_adapter_is_not_shown_to_merchants(merchant: Caller) -> None:
    [id] = route_payments(merchant.merchant_id, "tok_error_once")
    settle([id], "task-1")
    execute(
        "UPDATE charge_attempts SET code = 'adapter_error', message = 'KeyError: secret' WHERE transaction_id = :id",
        id=id,
    )

    [finished] = of_type(timeline(merchant, id), "attempt.finished")

    assert (finished["code"], finished["message"]) == ("adapter_error", None)


ENDPOINT = """
    INSERT INTO webhook_endpoints (id, merchant_id, url, events, secret)
    VALUES (:id, :merchant_id, 'https://example.com', ARRAY['transaction.completed'], ''::bytea)
"""


def test_the_timeline_shows_each_webhook_with_its_outcome(merchant: Caller) -> None:
    endpoint_id = new_id()
    execute(ENDPOINT, id=endpoint_id, merchant_id=merchant.merchant_id)
    id = completed(merchant.merchant_id)
    assert types(timeline(merchant, id))[-1] == "webhook.created"
    failed = "UPDATE webhook_deliveries SET attempts = 1, last_attempt_at = now(), response_status = 500"
    execute(failed)
    last = timeline(merchant, id)[-1]
    assert (last["type"], last["detail"]["attempts"], last["detail"]["response_status"]) == (
        "webhook.attempted",
        1,
        500,
    )
    for status in ("succeeded", "exhausted", "canceled"):
        execute(
            f"UPDATE webhook_deliveries SET status = '{status}', attempts = 2, next_attempt_at = NULL,"  # noqa: S608
            " finished_at = now(), response_status = 204"
        )
        created, ended = timeline(merchant, id)[-2:]
        assert (created["type"], ended["type"]) == ("webhook.created", f"webhook.{status}")
    with begin() as connection:
        event_id = connection.execute(text("SELECT event_id FROM webhook_deliveries")).scalar_one()
    assert timeline(merchant, id)[-1]["detail"] == {
        "event_id": str(event_id),
        "event": "transaction.completed", "endpoint_id": str(endpoint_id), "attempts": 2, "response_status": 204,
    }  # fmt: skip


REFUND = """
    INSERT INTO refunds (id, transaction_id, merchant_id, amount, currency, status, provider, provider_reference,
                         attempt_limit, request_id, created_at, updated_at, completed_at, attempts)
    SELECT uuid_v7(), id, merchant_id, 1, currency, 'completed', provider, 'ref_' || n, 4, 'r', now(), now(), now(), 1
    FROM transactions, generate_series(1, :refunds) n WHERE id = :id
"""
REFUND_ATTEMPTS = """
    INSERT INTO refund_attempts (refund_id, number, provider, task_id, started_at, lease_until, finished_at, outcome)
    SELECT id, 1, provider, 't', created_at, created_at, created_at, 'approved' FROM refunds
"""


def test_the_timeline_shows_a_refund_with_its_attempts(merchant: Caller) -> None:
    id = completed(merchant.merchant_id)
    execute(REFUND, id=id, refunds=1)
    execute(REFUND_ATTEMPTS)

    entries = timeline(merchant, id)

    assert types(entries)[-4:] == [
        "refund.requested", "refund.attempt_started", "refund.attempt_finished", "refund.completed",
    ]  # fmt: skip
    assert len({entry["detail"]["refund_id"] for entry in entries[-4:]}) == 1
    assert entries[-4]["detail"]["amount"] == 1


def test_the_timeline_distinguishes_the_dead_lettered_refunds_of_a_payment(merchant: Caller) -> None:
    id = paid("tok_refund_error_always", merchant_id=merchant.merchant_id)
    (replayed_id, letter_id), (discarded_id, other_letter_id) = dead_lettered_refund(id), dead_lettered_refund(id)
    with begin() as connection:
        resolution.replay(connection, letter_id, ACTOR)
        resolution.discard(connection, other_letter_id, ACTOR, None)

    entries = timeline(merchant, id)

    assert of_type(entries, "refund.dead_lettered") == [
        {"refund_id": str(refund_id), "reason": "rejected", "attempts": 4} for refund_id in (replayed_id, discarded_id)
    ]
    assert of_type(entries, "refund.replayed") == [{"refund_id": str(replayed_id), "by": "operator"}]
    assert of_type(entries, "refund.discarded") == [{"refund_id": str(discarded_id), "by": "operator"}]
    assert ACTOR not in str(entries)


def test_a_timeline_is_read_by_one_statement_and_limited_in_length(merchant: Caller, other_merchant: Caller) -> None:
    id = completed(merchant.merchant_id)
    dead_lettered(merchant.merchant_id)
    completed(other_merchant.merchant_id)
    execute(REFUND, id=id, refunds=ENTRIES_MAX + 1)
    execute(REFUND_ATTEMPTS)

    entries = timeline(merchant, id)
    with begin() as connection, statements() as sent:
        assert of_transaction(connection, merchant.merchant_id, id) == entries

    assert len(entries) == ENTRIES_MAX
    assert types(entries)[:6] == [
        "transaction.created", "transaction.routed", *ATTEMPT, "transaction.completed", "settlement.completed",
    ]  # fmt: skip
    assert len(sent) == 1


def test_the_creation_is_the_first_entry_even_if_another_host_has_a_different_clock(merchant: Caller) -> None:
    id = accept_payment(merchant.merchant_id)
    execute("UPDATE transactions SET created_at = now() + interval '1 minute'")
    merchant.post(f"/v1/transactions/{id}/cancel")

    entries = timeline(merchant, id)

    assert types(entries) == ["transaction.created", "transaction.canceled"]
    ahead = datetime.fromisoformat(entries[0]["at"]) - datetime.fromisoformat(entries[1]["at"])
    assert ahead > timedelta(seconds=50)
