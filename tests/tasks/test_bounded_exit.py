"""A worker that failed ends in bounded time."""

import os
import threading
from types import SimpleNamespace

import pytest
from celery.platforms import EX_FAILURE

from tasks import bounded_exit
from tasks.bounded_exit import BoundedExit

pytestmark = pytest.mark.unit

LATER_SECONDS = 0.1


@pytest.mark.parametrize(("exitcode", "ends"), [(None, False), (0, False), (EX_FAILURE, True)])
def test_a_failed_worker_ends_even_if_one_of_its_tasks_never_ends(
    monkeypatch: pytest.MonkeyPatch, exitcode: int | None, ends: bool
) -> None:
    exited = threading.Event()
    monkeypatch.setattr(bounded_exit, "EXIT_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", lambda _status: exited.set())
    worker = SimpleNamespace(exitcode=exitcode, steps=[])
    BoundedExit(worker).close(worker)
    assert exited.wait(5 if ends else LATER_SECONDS) is ends
