"""The nightly reconciliation through the broker and a real worker of the operations queue."""

import pytest
from sqlalchemy import text

import celeryconfig
from gateway.db import begin
from gateway.domain.reconciliation.runs import ADVISORY_LOCK
from tasks import app
from tasks.reconciliation import reconcile
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import count, execute
from tests.helpers.waiting import eventually
from tests.tasks.workers import worker_thread

pytestmark = pytest.mark.usefixtures("database", "broker")


def test_the_task_of_beat_runs_a_reconciliation_on_the_operations_queue() -> None:
    scheduled = str(celeryconfig.beat_schedule["reconcile"]["task"])
    settled_payment()
    execute("UPDATE transactions SET amount = 1005")
    with worker_thread("operations"):
        app.send_task(scheduled)
        eventually(lambda: count("reconciliation_runs", "status = 'completed'") == 1, what="the run")
    assert (count("discrepancies"), count("alerts")) == (1, 1)


def test_nothing_is_compared_while_another_run_is_in_progress() -> None:
    with begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        assert reconcile.apply().successful()
    assert count("reconciliation_runs") == 0
