"""Dead letters of payments: listed, replayed and discarded."""

from collections.abc import Callable
from functools import partial
from uuid import UUID

import pytest

from gateway.db import autocommit, begin
from gateway.domain.dead_letters import resolution
from gateway.domain.dead_letters.resolution import DeadLetterFilter
from gateway.domain.payments import settling
from gateway.errors import AlreadyResolved, InvalidState, NotFound
from gateway.flows.settlement import settle
from gateway.ids import new_id
from gateway.outcomes import Approved
from tests.helpers.dead_letters import dead_message, exhausted_payment, open_letter, open_letters, store
from tests.helpers.factories import (
    accept_payment,
    count,
    execute,
    expire_lease,
    make_merchant,
    route_payments,
    status_of,
)

pytestmark = pytest.mark.usefixtures("database")


def test_a_replay_gives_new_attempts_and_settles_once() -> None:
    id, letter_id = open_letter()
    execute("UPDATE transactions SET payment_method = 'tok_approve'")  # the provider has recovered
    execute("DELETE FROM outbox")
    with begin() as connection:
        letter = resolution.replay(connection, letter_id, "operator@example.com")
    assert (letter["status"], letter["resolved_by"]) == ("replayed", "operator@example.com")
    assert (status_of(id), count("outbox", "topic = 'settlement.requested'")) == ("processing", 1)
    settle([id], "task-2")
    settle([id], "task-3")
    assert (status_of(id), count("settlements"), count("audit_log")) == ("completed", 1, 1)


def test_a_replay_that_fails_again_becomes_a_second_dead_letter() -> None:
    id, letter_id = open_letter()
    with begin() as connection:
        resolution.replay(connection, letter_id, "operator@example.com")
    for _ in range(4):
        settle([id], "task-2")
    assert len(store(dead_message(id, key="task-2")).dead) == 1
    assert (count("dead_letters"), count("charge_attempts"), status_of(id)) == (2, 8, "dead_lettered")


def test_a_dead_message_that_is_redelivered_after_the_replay_changes_nothing() -> None:
    id, letter_id = open_letter()
    with begin() as connection:
        resolution.replay(connection, letter_id, "operator@example.com")
    for _ in range(4):
        settle([id], "task-2")
    assert store(dead_message(id)).dead == []
    assert status_of(id) == "processing"
    assert len(store(dead_message(id, key="task-2")).dead) == 1
    assert (status_of(id), count("dead_letters", "status = 'open'")) == ("dead_lettered", 1)


def test_a_replay_of_a_payment_that_was_never_routed_routes_it() -> None:
    id = accept_payment(make_merchant())
    execute("DELETE FROM outbox")
    with begin() as connection:
        settling.exhaust(connection, [id], "ValueError: broken")
    store(dead_message(id))
    with begin() as connection:
        [letter] = resolution.list_newest(connection, DeadLetterFilter(), None, 10)
        resolution.replay(connection, UUID(letter["id"]), "operator@example.com")
    assert letter["exception"] == "ValueError: broken"
    assert (status_of(id), count("outbox", "topic = 'transaction.created'")) == ("pending", 1)


def test_a_discarded_transaction_fails() -> None:
    id, letter_id = open_letter()
    with begin() as connection:
        letter = resolution.discard(connection, letter_id, "operator@example.com", "customer paid in cash")
    assert (letter["status"], letter["note"]) == ("discarded", "customer paid in cash")
    assert status_of(id) == "failed"
    assert count("transactions", "failure_category = 'discarded' AND failure_message = 'customer paid in cash'") == 1


def test_a_payment_that_the_provider_approved_late_cannot_be_discarded_and_its_replay_completes_it() -> None:
    [id] = route_payments(make_merchant(), "tok_approve")
    execute("UPDATE transactions SET attempt_limit = 1")
    with autocommit() as connection:
        [claim] = settling.claim(connection, [id], "task-1", lease_seconds=30).claims
    expire_lease([id])
    store(dead_message(id))
    [letter_id] = letters = open_letters()
    with autocommit() as connection:
        assert settling.record(connection, [(claim, Approved("sim_late"))]) == []
    with pytest.raises(InvalidState), begin() as connection:
        resolution.discard(connection, letter_id, "operator@example.com", None)
    with begin() as connection:
        assert resolution.discard_all(connection, letters, "operator@example.com", None) == []
    assert (status_of(id), open_letters()) == ("dead_lettered", letters)
    with begin() as connection:
        resolution.replay(connection, letter_id, "operator@example.com")
    assert settle([id], "task-2").completed == [id]
    assert (status_of(id), count("settlements")) == ("completed", 1)


@pytest.mark.parametrize("action", ["replay", "discard"])
def test_a_dead_letter_is_resolved_once(action: str) -> None:
    _, letter_id = open_letter()
    with begin() as connection:
        resolution.discard(connection, letter_id, "operator@example.com", None)
    actions: dict[str, Callable[..., object]] = {
        "replay": resolution.replay,
        "discard": partial(resolution.discard, note=None),
    }
    with begin() as connection, pytest.raises(AlreadyResolved):
        actions[action](connection, letter_id, actor="operator@example.com")
    assert count("audit_log") == 1


def test_a_message_without_a_transaction_can_only_be_discarded() -> None:
    store(dead_message(key="garbage"))
    with begin() as connection:
        [letter] = resolution.list_newest(connection, DeadLetterFilter(), None, 10)
    with pytest.raises(InvalidState), begin() as connection:
        resolution.replay(connection, UUID(letter["id"]), "operator@example.com")
    with begin() as connection:
        assert resolution.discard(connection, UUID(letter["id"]), "operator", None)["status"] == "discarded"


def test_an_unknown_dead_letter_is_not_found() -> None:
    with begin() as connection, pytest.raises(NotFound):
        resolution.replay(connection, new_id(), "operator@example.com")


def test_dead_letters_are_listed_newest_first_and_filtered() -> None:
    ids = [exhausted_payment() for _ in range(3)]
    for number, id in enumerate(ids):
        store(dead_message(id, key=f"task-{number}"))
    with begin() as connection:
        page = resolution.list_newest(connection, DeadLetterFilter(status="open"), None, 2)
        rest = resolution.list_newest(connection, DeadLetterFilter(), UUID(page[-1]["id"]), 2)
        assert resolution.list_newest(connection, DeadLetterFilter(status="discarded"), None, 2) == []
        assert resolution.list_newest(connection, DeadLetterFilter(merchant_id=new_id()), None, 2) == []
    assert [letter["transaction_id"] for letter in [*page, *rest]] == [str(id) for id in reversed(ids)]


def test_a_replay_does_not_touch_a_transaction_that_has_ended_otherwise() -> None:
    id, letter_id = open_letter()
    execute("UPDATE transactions SET status = 'failed', failure_category = 'declined' WHERE id = :id", id=id)
    with begin() as connection, pytest.raises(InvalidState):
        resolution.replay(connection, letter_id, "operator@example.com")
    assert status_of(id) == "failed"
