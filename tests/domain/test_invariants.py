"""Each invariant holds for payments in every state, and each broken row is found."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError

from gateway.db import begin
from gateway.domain.invariants import checks as invariant_checks
from gateway.domain.invariants.checks import (
    EVERYTHING,
    INVARIANTS,
    REMEMBERED_MAX,
    WINDOW_MAX_SECONDS,
    Report,
)
from gateway.flows.invariants import check, horizon_seconds
from gateway.ids import new_id, smallest_id
from tests.helpers.breakages import BREAKAGES, Breakage
from tests.helpers.factories import count, execute, make_merchant
from tests.helpers.lifecycles import one_in_each_state, without_constraints

pytestmark = pytest.mark.usefixtures("database")


def broken(report: Report) -> dict[str, int]:
    return {result.invariant.name: result.violations for result in report.broken}


ALWAYS_COMPLETE = {
    "unfinished_are_scheduled",
    "dead_lettered_have_one_open_dead_letter",
    "open_dead_letters_are_of_dead_lettered",
    "pending_refunds_are_scheduled",
    "dead_lettered_refunds_have_one_open_dead_letter",
    "open_dead_letters_are_of_dead_lettered_refunds",
}
"""Invariants that read all unfinished and dead-lettered transactions, so they need no earlier findings."""


@pytest.mark.parametrize("full", [False, True], ids=["recent", "full"])
def test_every_invariant_holds_for_payments_in_every_state(full: bool) -> None:
    one_in_each_state()
    report = check(full=full)
    assert broken(report) == {}
    assert len(report.results) == len(INVARIANTS) == count("invariant_checks", "violations = 0")


def test_every_invariant_is_broken_by_a_row_of_these_tests() -> None:
    assert {name for breakage in BREAKAGES for name in breakage.breaks} == {row.name for row in INVARIANTS}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.what)
def test_a_broken_row_is_found_and_watched_until_it_is_repaired(breakage: Breakage) -> None:
    with without_constraints(*breakage.without):
        ids = one_in_each_state()
        values = {"id": ids[breakage.of], "other": ids["replayed_and_completed"], "new": new_id()}
        used = {name: value for name, value in values.items() if f":{name}" in breakage.statement}
        execute(breakage.statement, **used)
        found = broken(check())
        assert found == dict.fromkeys(breakage.breaks, 2 if "other" in used else 1)
        assert broken(check(full=True)) == found
        execute("UPDATE invariant_checks SET checked_at = now() + interval '1 hour'")  # no row is recent
        assert broken(recent()) == found
        execute("UPDATE invariant_checks SET sample = '[]'")
        assert broken(recent()).keys() == found.keys() & ALWAYS_COMPLETE


def recent() -> Report:
    """Return the report of a recent check, which is not recorded."""
    with begin() as connection:
        return invariant_checks.evaluate(connection, full=False, horizon_seconds=horizon_seconds(), limit_seconds=10)


def test_a_check_needs_a_transaction_without_earlier_statements() -> None:
    with begin() as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(InternalError, match="SET TRANSACTION"):
            invariant_checks.evaluate(connection, full=False, horizon_seconds=1, limit_seconds=10)
    with begin() as connection:
        invariant_checks.evaluate(connection, full=False, horizon_seconds=1, limit_seconds=10)
        shown = connection.execute(text("SHOW transaction_isolation")).scalar_one()
    assert shown == "repeatable read"


def test_a_limited_number_of_offending_rows_is_stored_and_all_are_counted() -> None:
    execute("""
        INSERT INTO idempotency_records (merchant_id, key, request_hash, transaction_id, status, body)
        SELECT :id, 'key-' || i, sha256(''), gen_random_uuid(), 201, '' FROM generate_series(1, 600) i
    """, id=make_merchant())  # fmt: skip
    [result] = check().broken
    assert (result.violations, len(result.sample)) == (600, REMEMBERED_MAX)
    assert count("invariant_checks", f"jsonb_array_length(sample) = {REMEMBERED_MAX}") == 1


def test_a_recent_check_begins_at_the_last_one_with_a_maximum_period() -> None:
    first = check()
    assert first.since is not None
    assert (first.checked_at - first.since).total_seconds() == WINDOW_MAX_SECONDS
    second = check()
    assert second.since is not None
    assert (first.checked_at - second.since).total_seconds() == invariant_checks.OVERLAP_SECONDS
    assert not second.missed
    execute("UPDATE invariant_checks SET checked_at = now() - interval '1 day'")
    third = check()
    assert third.since is not None
    assert (third.checked_at - third.since).total_seconds() == WINDOW_MAX_SECONDS
    assert third.missed.total_seconds() > 80_000
    assert check(full=True).since is None
    assert smallest_id(EVERYTHING).int == 0
