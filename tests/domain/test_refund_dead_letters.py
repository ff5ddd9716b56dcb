"""Dead messages of refunds: stored, requeued, replayed and discarded."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.db import autocommit, begin
from gateway.domain.dead_letters import intake, resolution
from gateway.domain.dead_letters.intake import REQUEUE_LIMIT, DeadMessage, Stored
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.domain.payments import refunding, requeueing
from gateway.domain.payments.kinds import REFUNDS
from gateway.domain.webhooks import event_queries
from gateway.domain.webhooks.event_queries import StoredEvent
from gateway.errors import AlreadyResolved, InvalidState
from gateway.flows import upkeep
from gateway.flows.refunds import refund as carry_out
from gateway.flows.settlement import settle
from gateway.ids import new_id, utc_now
from gateway.outcomes import Approved
from tests.helpers import lifecycles
from tests.helpers.factories import count, execute, make_merchant
from tests.helpers.refunds import expire_lease, merchant_of, paid, refund_amounts, request_refund, row

pytestmark = pytest.mark.usefixtures("database")

OPERATOR = "operator@example.com"


def dead_message(*ids: UUID, key: str = "task-1", reason: str = "rejected") -> DeadMessage:
    return DeadMessage(key, "refund.requested", reason, "payments.refund", "[]", {}, utc_now(), refund_ids=ids)


def store(*messages: DeadMessage) -> Stored:
    with begin() as connection:
        return intake.store(connection, messages)


def exhausted(transaction_id: UUID | None = None, amount: int | None = None) -> UUID:
    id = request_refund(transaction_id or paid("tok_refund_error_always"), amount)
    for _ in range(4):
        carry_out([id], "task-1")
    return id


def letter_of(refund_id: UUID) -> dict[str, Any]:
    with begin() as connection:
        letters = resolution.list_newest(connection, DeadLetterFilter(status="open"), None, 100)
    return next(letter for letter in letters if letter["refund_id"] == str(refund_id))


def replay(letter: dict[str, Any]) -> None:
    with begin() as connection:
        resolution.replay(connection, UUID(letter["id"]), OPERATOR)


def discard(letter: dict[str, Any], note: str | None = None) -> None:
    with begin() as connection:
        resolution.discard(connection, UUID(letter["id"]), OPERATOR, note)


def events_of(object_id: UUID) -> list[tuple[str, dict[str, Any]]]:
    """Return the types of the object's events with the representations that they show."""
    query = text("SELECT id, type, object_id, snapshot, created_at FROM events WHERE object_id = :id ORDER BY id")
    with begin() as connection:
        events = [StoredEvent(*row) for row in connection.execute(query, {"id": object_id})]
        shown = event_queries.objects_of(connection, events)
    return [(event.type, shown[event.id]) for event in events]


def test_an_exhausted_refund_becomes_a_dead_letter_that_also_names_its_transaction() -> None:
    id = exhausted()
    assert store(dead_message(id)).dead == [("refund.requested", "rejected")]
    refund, letter = row("refunds", id), letter_of(id)
    assert (refund.status, refund.attempts) == ("dead_lettered", 4)
    assert (letter["transaction_id"], letter["merchant_id"]) == (str(refund.transaction_id), str(refund.merchant_id))
    assert (letter["attempts"], letter["task"], letter["queue"]) == (4, "payments.refund", "refund.requested")
    assert "provider_error" in letter["exception"]
    assert refund_amounts(refund.transaction_id) == ("completed", 0, 1_000)
    assert count("alerts", f"message = 'Dead-lettered: refund {id} on refund.requested (rejected)'") == 1


def test_a_merchant_reads_why_a_refund_is_dead_until_it_is_replayed() -> None:
    id = exhausted()
    store(dead_message(id))
    assert (
        row("refunds", id).failure_code,
        row("refunds", id).failure_category,
        row("refunds", id).failure_retryable,
    ) == (
        "provider_error",
        "provider_error",
        True,
    )
    with begin() as connection:
        resolution.replay(connection, UUID(letter_of(id)["id"]), OPERATOR)
    assert (row("refunds", id).failure_code, row("refunds", id).failure_category) == (None, None)


def test_the_same_dead_message_delivered_twice_is_stored_once() -> None:
    id = exhausted()
    assert [len(store(dead_message(id)).dead) for _ in range(2)] == [1, 0]
    assert (count("dead_letters"), count("alerts")) == (1, 1)


def test_refunds_of_one_transaction_are_dead_lettered_separately() -> None:
    transaction_id = paid("tok_refund_error_always")
    ids = [exhausted(transaction_id, 300), exhausted(transaction_id, 400)]
    assert len(store(dead_message(*ids)).dead) == 2
    discard(letter_of(ids[0]))
    assert refund_amounts(transaction_id) == ("completed", 0, 400)
    assert [row("refunds", id).status for id in ids] == ["failed", "dead_lettered"]


def test_a_dead_message_does_not_change_a_completed_refund() -> None:
    id = request_refund(paid())
    carry_out([id], "task-1")
    assert store(dead_message(id)).ignored == [id]
    assert count("dead_letters") == 0


def test_a_refund_without_an_attempt_is_requeued() -> None:
    id = request_refund(paid())
    execute("DELETE FROM outbox")
    assert store(dead_message(id, reason="expired")).requeued == [id]
    assert count("outbox", f"topic = 'refund.requested' AND subject_id = '{id}'") == 1


def test_a_refund_that_was_requeued_too_often_is_dead() -> None:
    id = request_refund(paid())
    execute("UPDATE refunds SET requeues = :limit", limit=REQUEUE_LIMIT)
    assert len(store(dead_message(id)).dead) == 1
    assert row("refunds", id).status == "dead_lettered"


def test_an_unknown_refund_has_a_dead_letter_that_can_only_be_discarded() -> None:
    id = new_id()
    assert len(store(dead_message(id)).dead) == 1
    letter = letter_of(id)
    assert (letter["transaction_id"], letter["exception"]) == (None, "No refund has this id.")
    with pytest.raises(InvalidState):
        replay(letter)
    discard(letter)


def test_a_replayed_refund_gets_four_more_attempts_and_is_carried_out() -> None:
    id = exhausted()
    store(dead_message(id))
    execute("DELETE FROM outbox")
    letter = letter_of(id)
    replay(letter)
    assert (row("refunds", id).status, row("refunds", id).attempt_limit) == ("pending", 8)
    assert count("outbox", f"topic = 'refund.requested' AND subject_id = '{id}'") == 1
    with pytest.raises(AlreadyResolved):
        replay(letter)
    execute("UPDATE transactions SET payment_method = 'tok_approve'")
    assert carry_out([id], "task-2").completed == [id]
    assert refund_amounts(row("refunds", id).transaction_id) == ("refunded", 1_000, 0)


def test_a_replay_does_not_touch_a_refund_that_has_ended_otherwise() -> None:
    id = exhausted()
    store(dead_message(id))
    execute("UPDATE refunds SET status = 'failed', failure_category = 'discarded' WHERE id = :id", id=id)
    with pytest.raises(InvalidState):
        replay(letter_of(id))
    assert (row("refunds", id).status, letter_of(id)["status"]) == ("failed", "open")


def test_a_replay_of_a_refund_in_doubt_queries_the_status_before_it_sends_again() -> None:
    id = exhausted()
    execute("UPDATE refund_attempts SET outcome = 'unknown' WHERE number = 4")
    assert store(dead_message(id)).dead == [("refund.requested", "in_doubt")]
    replay(letter_of(id))
    with autocommit() as connection:
        [claim] = refunding.claim(connection, [id], "task-2", lease_seconds=30).claims
    assert claim.in_doubt


def test_a_discarded_refund_fails_releases_its_amount_and_has_an_event() -> None:
    transaction_id = paid("tok_refund_error_always")
    id = exhausted(transaction_id, 400)
    store(dead_message(id))
    letter = letter_of(id)
    discard(letter, "given back in cash")
    refund = row("refunds", id)
    assert (refund.status, refund.failure_category, refund.failure_message) == (
        "failed",
        "discarded",
        "given back in cash",
    )
    assert refund_amounts(transaction_id) == ("completed", 0, 0)
    [(kind, shown)] = events_of(id)
    assert (kind, shown["status"], shown["failure"]["code"]) == ("refund.failed", "failed", "discarded")
    with pytest.raises(AlreadyResolved):
        discard(letter)


def test_the_late_success_of_a_discarded_refund_is_stored_only_in_its_attempt() -> None:
    id = request_refund(paid())
    execute("UPDATE refunds SET attempt_limit = 1")
    with autocommit() as connection:
        [claim] = refunding.claim(connection, [id], "task-1", lease_seconds=30).claims
    expire_lease([id])
    store(dead_message(id))
    discard(letter_of(id))
    with autocommit() as connection:
        assert refunding.record(connection, [(claim, Approved("sim_late"))]) == []
    assert count("refund_attempts", "outcome = 'approved'") == 1
    assert (row("refunds", id).status, refund_amounts(row("refunds", id).transaction_id)) == (
        "failed",
        ("completed", 0, 0),
    )


def test_a_refund_that_the_provider_approved_late_cannot_be_discarded_and_its_replay_completes_it() -> None:
    id = request_refund(paid())
    execute("UPDATE refunds SET attempt_limit = 1")
    with autocommit() as connection:
        [claim] = refunding.claim(connection, [id], "task-1", lease_seconds=30).claims
    expire_lease([id])
    store(dead_message(id))
    with autocommit() as connection:
        assert refunding.record(connection, [(claim, Approved("sim_late"))]) == []
    with pytest.raises(InvalidState):
        discard(letter_of(id))
    replay(letter_of(id))
    assert carry_out([id], "task-2").completed == [id]
    assert refund_amounts(row("refunds", id).transaction_id) == ("refunded", 1_000, 0)


def test_the_sweep_requeues_a_stuck_refund_and_not_one_that_a_worker_processes() -> None:
    stuck, held, fresh = (request_refund(paid()) for _ in range(3))
    with autocommit() as connection:
        refunding.claim(connection, [held], "task-1", lease_seconds=600)
    execute("DELETE FROM outbox")
    execute("UPDATE refunds SET updated_at = now() - interval '1 hour' WHERE id <> :fresh", fresh=fresh)
    assert upkeep.sweep().requeued == 1
    with begin() as connection:
        assert list(connection.scalars(text("SELECT subject_id FROM outbox WHERE topic = 'refund.requested'"))) == [
            stuck
        ]
        assert requeueing.stuck(connection, REFUNDS, 60, 10) == []
    assert count("alerts", "message = '1 refunds were stuck and were requeued'") == 1


def test_a_dead_payment_and_its_discard_have_events_with_the_payment_at_that_time() -> None:
    merchant_id = make_merchant()
    id, letter_id = lifecycles.dead_lettered(merchant_id)
    with begin() as connection:
        resolution.discard(connection, letter_id, OPERATOR, None)
    (died, then), (failed, now) = events_of(id)
    assert (died, failed) == ("transaction.dead_lettered", "transaction.failed")
    assert (then["status"], then["attempts"], then["provider"]) == ("dead_lettered", 4, "simulated")
    assert then["failure"]["category"] == "provider_error"
    assert (now["status"], now["failure"]["category"]) == ("failed", "discarded")


def test_the_event_of_a_dead_payment_does_not_change_with_its_replay() -> None:
    id, letter_id = lifecycles.dead_lettered(make_merchant())
    [(_, before)] = events_of(id)
    with begin() as connection:
        resolution.replay(connection, letter_id, OPERATOR)
    execute("UPDATE transactions SET payment_method = 'tok_approve' WHERE id = :id", id=id)
    assert settle([id], "task-2").completed == [id]
    refund = request_refund(id, 10)
    carry_out([refund], "task-3")
    execute("UPDATE transactions SET payment_method = 'tok_error_always' WHERE id = :id", id=id)
    assert events_of(id)[0][1] == before
    assert merchant_of(id) == UUID(before["merchant_id"])
