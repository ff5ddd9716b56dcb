"""The cost of a list depends neither on the size of the backlog nor on outdated statistics of PostgreSQL."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.db import autocommit
from gateway.flows import routing
from gateway.flows.settlement import settle
from gateway.models import all_tables
from tests.helpers.captured_sql import executed, read_by, statements
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import accept_payment, execute, make_merchant

pytestmark = pytest.mark.usefixtures("database")

BACKLOG = 2_000
LIST = 50
COPIES = """
    INSERT INTO transactions (id, merchant_id, amount, currency, payment_method, status, provider, attempt_limit,
                              provider_reference, completed_at, request_id, created_at, updated_at)
    SELECT uuid_v7(), merchant_id, amount, currency, payment_method, :status, 'simulated', 4,
           CASE WHEN :status = 'completed' THEN id::text END, CASE WHEN :status = 'completed' THEN now() END,
           request_id, now(), now()
    FROM transactions, generate_series(1, :number) WHERE id = :id
"""

ATTEMPTS = """
    INSERT INTO charge_attempts (transaction_id, number, provider, task_id, started_at, lease_until, finished_at,
                                 outcome)
    SELECT id, 1, provider, 'task', now(), now(), now(), 'approved' FROM transactions WHERE status = 'completed'
"""


@pytest.fixture
def ids() -> Iterator[list[UUID]]:
    """Yield a list of payments in a backlog that PostgreSQL's statistics do not contain, as at the start of a peak."""
    merchant_id = make_merchant()
    first = accept_payment(merchant_id)
    execute(COPIES, status="completed", number=10 * BACKLOG, id=first)
    execute(ATTEMPTS)  # the planner rightly reads a table of one page completely
    execute("ANALYZE transactions, charge_attempts")
    for status in ("pending", "processing"):
        execute(COPIES, status=status, number=BACKLOG, id=first)
    yield [accept_payment(merchant_id) for _ in range(LIST)]
    execute("ANALYZE transactions, charge_attempts")


def test_a_list_reads_only_its_own_rows_of_a_large_backlog(ids: list[UUID]) -> None:
    with statements() as sent:
        assert routing.route(ids).routed == ids
        assert set(settle(ids, "task").completed) == set(ids)
    assert len(sent) == 3, "routed, claimed and recorded"
    for statement in sent:
        plan = executed(statement)
        read = sum(read_by(node) for node in plan)
        assert read <= 5 * LIST, (read, statement.sql, plan)


def rows_read() -> int:
    """Return the number of table rows and index entries that were read by ended transactions."""
    with autocommit() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        tables = connection.execute(text("SELECT sum(seq_tup_read) FROM pg_stat_user_tables")).scalar_one()
        indexes = connection.execute(text("SELECT sum(idx_tup_read) FROM pg_stat_user_indexes")).scalar_one()
    return int(tables + indexes)


def test_a_session_with_statistics_of_empty_tables_reads_none_of_them_completely() -> None:
    merchant_id = make_merchant()
    with autocommit() as connection:
        connection.execute(text(f"VACUUM ANALYZE {', '.join(all_tables().tables)}"))  # PostgreSQL knows it for sure
    first, *_ = [settled_payment(merchant_id=merchant_id) for _ in range(20)]  # by now its plans are generic
    execute(COPIES, status="completed", number=BACKLOG, id=first)
    before = rows_read()
    settled_payment(merchant_id=merchant_id)
    assert rows_read() - before < 100
