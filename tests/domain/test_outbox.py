"""Fairness among merchants in the outbox, on real PostgreSQL."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

import pytest

from gateway.db import begin
from gateway.domain.shared import outbox
from gateway.domain.shared.outbox import FIRST_TURN, OutboxBatch, Topic
from gateway.ids import new_id
from tests.helpers.captured_sql import executed, read_by, statements
from tests.helpers.factories import count, execute, make_merchant

pytestmark = pytest.mark.usefixtures("database")

BACKLOG = 50_000
LIMIT = 400


def enqueue(merchant_id: UUID | None, number: int) -> None:
    """Insert rows of payments that do not exist."""
    execute(
        "INSERT INTO outbox (topic, subject_id, merchant_id)"
        " SELECT 'transaction.created', uuid_v7(), :merchant_id FROM generate_series(1, :number)",
        merchant_id=merchant_id,
        number=number,
    )


def take(next_turn: UUID = FIRST_TURN) -> OutboxBatch:
    with begin() as connection:
        return outbox.take_in_turns(connection, LIMIT, next_turn)


def by_merchant(taken: OutboxBatch) -> Counter[UUID | None]:
    return Counter(row.merchant_id for row in taken.rows)


@pytest.fixture
def heavy() -> Iterator[UUID]:
    """Create a merchant with a backlog that PostgreSQL's statistics do not contain."""
    merchant_id = make_merchant()
    enqueue(merchant_id, BACKLOG)
    yield merchant_id
    execute("ANALYZE outbox")


def test_a_row_behind_another_merchants_backlog_is_in_the_next_batch(heavy: UUID) -> None:
    light = make_merchant()
    enqueue(light, 1)
    taken = take()
    assert by_merchant(taken) == {heavy: LIMIT // 2, light: 1}
    assert taken.more
    assert by_merchant(take()) == {heavy: LIMIT}, "alone again, it gets all"


@pytest.mark.parametrize("analyzed", [False, True], ids=["unknown", "known"])
def test_a_batch_reads_only_its_own_rows_of_a_large_backlog(heavy: UUID, analyzed: bool) -> None:
    for _ in range(10):
        enqueue(make_merchant(), 1)
    if analyzed:
        execute("ANALYZE outbox")
    with statements() as sent:
        assert len(take().rows) > 10
    [statement] = [statement for statement in sent if "DELETE FROM outbox" in statement.sql]
    plan = executed(statement)
    read = sum(read_by(node) for node in plan)
    assert read <= 6 * LIMIT, (read, plan)
    assert count("outbox", f"merchant_id = '{heavy}'") > BACKLOG // 2


def test_the_shares_are_proportional_to_the_weights(heavy: UUID) -> None:
    weighty = make_merchant()
    execute("UPDATE merchants SET weight = 3 WHERE id = :id", id=weighty)
    enqueue(weighty, 2 * LIMIT)
    assert by_merchant(take()) == {heavy: LIMIT // 4, weighty: 3 * LIMIT // 4}


def test_rows_without_a_merchant_have_a_turn(heavy: UUID) -> None:
    with begin() as connection:
        outbox.enqueue(connection, Topic.ALERT_RAISED, [new_id()])
    assert by_merchant(take()) == {heavy: LIMIT // 2, None: 1}


def test_rows_without_a_merchant_are_all_taken(heavy: UUID) -> None:
    execute("UPDATE outbox SET merchant_id = NULL")  # like rows of the previous version
    assert by_merchant(take()) == {None: LIMIT}
    assert take().more
    assert count("merchants", f"id = '{heavy}'") == 1


def test_a_relay_skips_rows_that_another_one_has_locked(heavy: UUID) -> None:
    light = make_merchant()
    enqueue(light, 1)
    with begin() as one, begin() as other:
        first = outbox.take_in_turns(one, LIMIT, FIRST_TURN)
        second = outbox.take_in_turns(other, LIMIT, FIRST_TURN)
    assert (by_merchant(first), by_merchant(second)) == ({heavy: 200, light: 1}, {heavy: 200})
    assert not {row.subject_id for row in first.rows} & {row.subject_id for row in second.rows}


def test_the_next_batch_continues_after_the_merchants_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MERCHANTS_MAX", 3)
    merchants = sorted(make_merchant() for _ in range(7))
    for merchant_id in merchants:
        enqueue(merchant_id, 1)
    batches: list[OutboxBatch] = []
    next_turn, more = FIRST_TURN, True
    while more:
        batches.append(take(next_turn))
        next_turn, more = batches[-1].next_turn, batches[-1].more
    served = [row.merchant_id for taken in batches for row in taken.rows]
    assert (served, count("outbox")) == (merchants, 0)
    assert [len(taken.rows) for taken in batches] == [3, 3, 1, 0]


def test_the_last_batch_reports_that_no_rows_are_left() -> None:
    enqueue(make_merchant(), 3)
    assert not take().more
    assert take() == OutboxBatch([], more=False)


def test_a_merchant_with_a_small_weight_has_a_turn_beside_large_weights(heavy: UUID) -> None:
    others = [make_merchant() for _ in range(2 * LIMIT // 100)]
    execute("UPDATE merchants SET weight = 100 WHERE id = ANY (:ids)", ids=others)
    for merchant_id in others:
        enqueue(merchant_id, LIMIT)
    enqueue(None, 1)
    taken = by_merchant(take())
    assert taken[heavy] == 1
    assert taken[None] == 1
    assert all(taken[merchant_id] for merchant_id in others)
