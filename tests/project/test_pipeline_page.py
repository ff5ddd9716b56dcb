"""docs/pipeline.md lists the queues, the tasks and the topics that exist."""

import re

import pytest

import celeryconfig
from gateway.domain.shared.outbox import Topic
from tasks import app
from tests.project.code import ROOT

pytestmark = pytest.mark.unit

PAGE = (ROOT / "docs" / "pipeline.md").read_text()


def rows_of(title: str, *, cell: int = 1) -> set[str]:
    """Return what one cell of each row of a section's table names in backticks."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[cell])}


def test_the_page_lists_every_task() -> None:
    app.loader.import_default_modules()
    assert rows_of("Tasks") == {name for name, task in app.tasks.items() if task.__module__.startswith("tasks.")}


def test_the_page_lists_every_queue() -> None:
    exchanges = {celeryconfig.PAYMENTS.name, celeryconfig.DEAD_LETTERS.name, celeryconfig.UNROUTED.name}
    others = {"dlq.<queue>", "celery_delayed_0", "celery_delayed_27", "gateway-message-ttl"}
    assert rows_of("Topology") == {*celeryconfig.WORK_QUEUE_NAMES} | exchanges | others
    assert rows_of("Tasks", cell=2) <= {*celeryconfig.WORK_QUEUE_NAMES}


def test_the_page_lists_every_topic_of_the_outbox() -> None:
    assert rows_of("Outbox and relay") == {str(topic) for topic in Topic}
