"""Cancel transactions before they are routed."""

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
from gateway.ids import utc_now
from tests.api.conftest import Caller, Response, expect_problem
from tests.helpers.factories import count, execute, status_of
from tests.helpers.lifecycles import completed

RACES = 40


def cancel(caller: Caller, id: object, key: str | None = None) -> Response:
    headers = {"Idempotency-Key": key} if key else {}
    return caller.post(f"/v1/transactions/{id}/cancel", headers=headers)


def test_a_pending_transaction_is_canceled(merchant: Caller) -> None:
    made = merchant.pay().json

    response = cancel(merchant, made["id"])

    assert response.status_code == 200, response.text
    Transaction.model_validate_json(response.data)
    assert response.json == made | {"status": "canceled", "updated_at": response.json["updated_at"]}
    assert response.json["updated_at"] > made["updated_at"]
    assert merchant.get(f"/v1/transactions/{made['id']}").json == response.json


def test_a_cancellation_creates_an_event_in_the_same_commit(merchant: Caller) -> None:
    id = merchant.pay().json["id"]

    cancel(merchant, id)

    wanted = f"merchant_id = '{merchant.merchant_id}' AND type = 'transaction.canceled' AND object_id = '{id}'"
    assert count("events", wanted) == count("events") == 1


def test_a_canceled_transaction_cannot_be_canceled_again(merchant: Caller) -> None:
    id = merchant.pay().json["id"]
    cancel(merchant, id)

    problem = expect_problem(cancel(merchant, id), 409, "invalid_state")

    assert "canceled" in problem["detail"]
    assert count("events") == 1


def test_a_routed_or_completed_transaction_cannot_be_canceled(merchant: Caller) -> None:
    routed = UUID(merchant.pay().json["id"])
    routing.route([routed])
    for id, status in ((routed, "processing"), (completed(merchant.merchant_id), "completed")):
        problem = expect_problem(cancel(merchant, id), 409, "invalid_state")
        assert status in problem["detail"]
        assert status_of(id) == status
    assert count("events", "type = 'transaction.canceled'") == 0


@pytest.mark.parametrize("alone", [True, False])
def test_the_message_of_a_canceled_transaction_is_ignored(merchant: Caller, alone: bool) -> None:
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
def test_a_dead_message_of_a_canceled_transaction_creates_no_dead_letter(merchant: Caller, reason: str) -> None:
    id = UUID(merchant.pay().json["id"])
    execute("UPDATE transactions SET requeues = 10 WHERE id = :id", id=id)
    cancel(merchant, id)
    message = DeadMessage("task-1", "transaction.created", reason, "payments.route", "[]", {}, utc_now(), (id,))

    with begin() as connection:
        stored = intake.store(connection, [message])

    assert stored.ignored == [id]
    assert count("dead_letters") == 0
    assert status_of(id) == "canceled"


def test_exactly_one_of_a_concurrent_routing_and_cancellation_succeeds(merchant: Caller) -> None:
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


def test_of_concurrent_cancellations_exactly_one_succeeds(merchant: Caller) -> None:
    id = merchant.pay().json["id"]

    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda _: cancel(merchant, id).status_code, range(16)))

    assert sorted(responses) == [200] + [409] * 15
    assert count("events") == 1
