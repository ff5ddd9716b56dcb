"""Delays and schedules do not depend on the clocks of hosts."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

import celeryconfig
from gateway.db import begin
from gateway.domain.shared import outbox
from gateway.domain.shared.outbox import Topic
from gateway.ids import new_id, utc_now
from tasks import app, reconciliation, transactions, upkeep
from tests.helpers.waiting import eventually
from tests.helpers.wrong_clocks import environment_with_clock
from tests.tasks.test_relay import relay_once

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, celeryconfig
entries = celeryconfig.beat_schedule.values()
print(json.dumps([entry["schedule"].now().isoformat() for entry in entries]))
"""


@pytest.mark.parametrize("offset", ["+1d", "-1d"])
def test_beat_uses_the_clock_of_the_database(offset: str) -> None:
    environment = os.environ | environment_with_clock(offset) | {"RECONCILIATION_TIME_ZONE": "Asia/Tokyo"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    times = json.loads(done.stdout)
    assert len(times) == len(celeryconfig.beat_schedule)
    for text in times:
        shown = datetime.fromisoformat(text)
        assert abs(shown - utc_now()) < timedelta(seconds=30)
        assert shown.utcoffset() == timedelta(hours=9), "crontab compares the hours of the schedule's time zone"


JOBS = {
    job.name: job
    for job in (
        upkeep.sweep,
        upkeep.fold_balances,
        upkeep.check_invariants,
        upkeep.check_balances,
        reconciliation.reconcile,
    )
}


def raw(broker: Connection, queue: str) -> Any:
    return app.amqp.queues[queue](broker.default_channel).get()


@pytest.mark.parametrize("entry", celeryconfig.beat_schedule.values(), ids=list(celeryconfig.beat_schedule))
def test_a_scheduled_job_expires_only_by_the_brokers_clock(broker: Connection, entry: dict[str, Any]) -> None:
    with app.amqp.Producer(broker, auto_declare=False) as producer:
        JOBS[entry["task"]].apply_async(producer=producer, **entry["options"])
    message = raw(broker, "operations")
    message.ack()
    assert message.headers["expires"] is None
    assert int(message.properties["expiration"]) == entry["options"]["expiration"] * 1000


def test_a_delayed_message_contains_no_time_of_its_senders_clock(broker: Connection) -> None:
    began = utc_now()
    transactions.accepted([str(new_id())]).apply_async(countdown=1)
    message = eventually(lambda: raw(broker, "transaction.created.bulk"), what="the delayed message")
    message.ack()
    assert utc_now() - began >= timedelta(seconds=1)
    assert message.headers["eta"] is None


def test_the_messages_of_the_relay_contain_no_time(broker: Connection) -> None:
    with begin() as connection:
        for topic in Topic:
            outbox.enqueue(connection, topic, [new_id()])
    assert relay_once(broker) == len(Topic)
    for name in celeryconfig.WORK_QUEUE_NAMES:
        while (message := raw(broker, name)) is not None:
            message.ack()
            assert (message.headers["eta"], message.headers["expires"]) == (None, None)
