"""The base class of all tasks."""

from uuid import uuid4

import pytest

from gateway.config import settings
from gateway.config.groups import MESSAGE_IDS_LIMIT
from gateway.domain.payments.transactions import MAX_RETRIES
from gateway.errors import MalformedMessage
from tasks import app
from tasks.base import TRANSIENT, GatewayTask, parse_ids, retry_delay

pytestmark = pytest.mark.unit

ID = str(uuid4())


@pytest.mark.parametrize("retries", [0, 1, 2, 3, 10, 1_000])
def test_a_retry_waits_whole_seconds_of_at_least_one(retries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRY_BACKOFF_SECONDS", "2")
    monkeypatch.setenv("RETRY_BACKOFF_MAX_SECONDS", "60")
    settings.cache_clear()
    try:
        delays = {retry_delay(retries) for _ in range(200)}
        assert all(isinstance(delay, int) for delay in delays)
        longest = min(60, 2 * 2**retries)
        assert max(1, longest // 2) <= min(delays) <= max(delays) <= longest
    finally:
        settings.cache_clear()


def test_every_task_is_retried_three_times_at_most_after_transient_errors() -> None:
    app.loader.import_default_modules()
    ours = [task for name, task in app.tasks.items() if not name.startswith("celery.")]
    assert len(ours) >= 12
    assert all(isinstance(task, GatewayTask) and task.autoretry_for == TRANSIENT for task in ours)
    assert {task.max_retries for task in ours} == {0, MAX_RETRIES} == {0, 3}


def test_ids_are_parsed_each_once_in_order() -> None:
    one, other = uuid4(), uuid4()
    assert parse_ids([str(one), str(other), str(one)]) == [one, other]


def test_a_list_that_was_published_under_a_larger_setting_is_accepted() -> None:
    ids = [uuid4() for _ in range(settings().message_max_ids + 1)]
    assert parse_ids([str(id) for id in ids]) == ids


@pytest.mark.parametrize(
    "ids",
    [None, "x", {}, [], [1], ["x"], [None], [str(uuid4()).upper()], [ID] * (MESSAGE_IDS_LIMIT + 1), [[ID]]],
    ids=range(10),
)
def test_everything_but_a_short_list_of_ids_is_malformed(ids: object) -> None:
    with pytest.raises(MalformedMessage):
        parse_ids(ids)
