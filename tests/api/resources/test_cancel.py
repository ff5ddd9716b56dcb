"""Canceling a transaction before it is routed (api.md, Transactions)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from gateway.api.resources.transactions import Transaction
from gateway.db import begin
from gateway.domain.dead_letters import intake
from gateway.domain.dead_letters.intake import DeadMessage
from gateway.flows import routing
from gateway.flows.settlement import settle
from gateway.ids import new_id, utc_now
from tests.api.conftest import Answer, Caller, expect_problem
from tests.helpers.factories import count, execute, status_of
from tests.helpers.lifecycles import completed

RACES = 40


def cancel(caller: Caller, id: object, key: str | None = None) -> Answer:
    headers = {"Idempotency-Key": key} if key else {}
    return caller.post(f"/v1/transactions/{id}/cancel", headers=headers)


def test_a_pending_transaction_is_canceled(merchant: Caller) -> None:
    made = merchant.pay().json

    answer = cancel(merchant, made["id"])

    assert answer.status_code == 200, answer.text
    Transaction.model_validate_json(answer.data)
    assert answer.json == made | {"status": "canceled", "updated_at": answer.json["updated_at"]}
    assert answer.json["updated_at"] > made["updated_at"]
    assert merchant.get(f"/v1/transactions/{made['id']}").json == answer.json


def test_the_merchant_is_told_by_an_event_of_the_same_commit(merchant: Caller) -> None:
    id = merchant.pay().json["id"]

    cancel(merchant, id)

    wanted = f"merchant_id = '{merchant.merchant_id}' AND type = 'transaction.canceled' AND object_id = '{id}'"
    assert count("events", wanted) == count("events") == 1


def test_a_transaction_that_is_canceled_cannot_be_canceled_again(merchant: Caller) -> None:
    id = merchant.pay().json["id"]
    cancel(merchant, id)

    problem = expect_problem(cancel(merchant, id), 409, "invalid_state")

    assert "canceled" in problem["detail"]
    assert count("events") == 1


def test_a_routed_or_finished_transaction_keeps_its_status(merchant: Caller) -> None:
    routed = UUID(merchant.pay().json["id"])
    routing.route([routed])
    for id, status in ((routed, "processing"), (completed(merchant.merchant_id), "completed")):
        problem = expect_problem(cancel(merchant, id), 409, "invalid_state")
        assert status in problem["detail"]
        assert status_of(id) == status
    assert count("events", "type = 'transaction.canceled'") == 0


def test_a_foreign_transaction_is_no_transaction(merchant: Caller, other_merchant: Caller) -> None:
    foreign = other_merchant.pay().json["id"]

    for id in (foreign, new_id(), "x"):
        for key in (None, "key-1"):
            expect_problem(cancel(merchant, id, key), 404, "not_found")
    assert status_of(UUID(foreign)) == "pending"
    assert count("idempotency_records") == 0


def test_a_repeat_with_the_same_key_gets_the_first_answer(merchant: Caller) -> None:
    id = merchant.pay().json["id"]

    first, repeat = (cancel(merchant, id, "key-1") for _ in range(2))

    assert (repeat.status_code, repeat.data) == (200, first.data)
    assert ("Idempotency-Replayed" in first.headers, repeat.headers["Idempotency-Replayed"]) == (False, "true")
    expect_problem(cancel(merchant, merchant.pay().json["id"], "key-1"), 422, "idempotency_key_reused")
    assert count("events") == 1


def test_the_key_of_a_cancellation_that_came_too_late_is_free(merchant: Caller) -> None:
    id = UUID(merchant.pay().json["id"])
    routing.route([id])

    expect_problem(cancel(merchant, id, "key-1"), 409, "invalid_state")

    assert count("idempotency_records") == 0


def test_canceling_needs_the_scope_to_write(merchant: Caller) -> None:
    operation = merchant.get("/openapi.json").json["paths"]["/v1/transactions/{id}/cancel"]["post"]

    assert {"bearer": ["transactions:write"]} in operation["security"]
    assert {"200", "404", "409", "422"} <= set(operation["responses"])


@pytest.mark.parametrize("alone", [True, False])
def test_the_message_of_a_canceled_transaction_is_dropped(merchant: Caller, alone: bool) -> None:
    canceled, other = (UUID(merchant.pay().json["id"]) for _ in range(2))
    cancel(merchant, canceled)
    message = [canceled] if alone else [canceled, other]

    routed = routing.route(message)

    assert (routed.routed, routed.nonexistent) == (message[1:], [])
    settled = settle([canceled], "task-1")
    assert not any((settled.completed, settled.retry, settled.busy, settled.interrupted, settled.dead))
    assert status_of(canceled) == "canceled"
    assert count("charge_attempts", f"transaction_id = '{canceled}'") == 0


@pytest.mark.parametrize("reason", ["expired", "rejected", "delivery_limit"])
def test_a_dead_message_of_a_canceled_transaction_is_no_dead_letter(merchant: Caller, reason: str) -> None:
    id = UUID(merchant.pay().json["id"])
    execute("UPDATE transactions SET requeues = 10 WHERE id = :id", id=id)
    cancel(merchant, id)
    message = DeadMessage("task-1", "transaction.created", reason, "payments.route", "[]", {}, utc_now(), (id,))

    with begin() as connection:
        stored = intake.store(connection, [message])

    assert stored.ignored == [id]
    assert count("dead_letters") == 0
    assert status_of(id) == "canceled"


def test_of_routing_and_canceling_at_once_exactly_one_wins(merchant: Caller) -> None:
    ids = [UUID(merchant.pay().json["id"]) for _ in range(RACES)]
    start = threading.Barrier(3)

    def route_all() -> list[UUID]:
        start.wait(timeout=10)
        return [id for one in ids for id in routing.route([one]).routed]

    def cancel_all(order: list[UUID]) -> list[UUID]:
        start.wait(timeout=10)
        return [id for id in order if cancel(merchant, id).status_code == 200]

    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(cancel_all, ids), pool.submit(cancel_all, ids[::-1]), pool.submit(route_all)]
        forwards, backwards, routed = (set(done.result()) for done in work)

    canceled = forwards | backwards
    assert not forwards & backwards
    assert canceled | routed == set(ids)
    assert not canceled & routed
    assert canceled == {id for id in ids if status_of(id) == "canceled"}
    assert routed == {id for id in ids if status_of(id) == "processing"}
    assert count("events", "type = 'transaction.canceled'") == len(canceled)


def test_of_many_cancellations_at_once_one_is_answered_with_200(merchant: Caller) -> None:
    id = merchant.pay().json["id"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: cancel(merchant, id).status_code, range(16)))

    assert sorted(answers) == [200] + [409] * 15
    assert count("events") == 1
