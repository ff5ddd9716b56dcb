"""What the workers' consumer does when its connection breaks, and when it cannot go on."""

import os
import pickle
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import ResultHandler
from celery.worker import loops
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer

from tasks import consumer
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.unit

LATER_SECONDS = 0.1


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading end, which does not block, and the writing end of a child's results."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def half_read(hub: Hub, fd: int, receive: Callable[[object], None]) -> None:
    """Celery reads a result whose rest has not come yet."""
    handler: Any = ResultHandler
    reader = handler._recv_message(SimpleNamespace(handle_event=None), hub.add_reader, fd, receive)
    next(reader)
    hub.add_reader(fd, reader)


def test_a_result_that_is_half_read_when_the_connection_breaks_is_read_to_its_end(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    body = pickle.dumps(["a result"])
    received: list[object] = []
    hub = Hub()
    os.write(writing, struct.pack("!i", len(body)))
    half_read(hub, reading, received.append)
    timer = threading.Timer(LATER_SECONDS, os.write, [writing, body])
    timer.start()
    consumer.reset_between_messages(hub)
    timer.join()
    assert received == [["a result"]]
    assert hub.readers == {}
    hub.close()


def test_the_rest_of_a_result_whose_child_died_is_not_waited_for_for_ever(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    monkeypatch.setattr(consumer, "READ_ON_SECONDS", LATER_SECONDS)
    received: list[object] = []
    hub = Hub()
    os.write(writing, struct.pack("!i", 10))
    half_read(hub, reading, received.append)
    consumer.reset_between_messages(hub)
    assert received == []
    assert hub.readers == {}
    hub.close()


@pytest.mark.parametrize(("error", "ends"), [(ConnectionResetError("broken"), False), (ValueError("unreadable"), True)])
def test_a_worker_that_cannot_go_on_ends_even_if_a_task_of_it_never_does(
    monkeypatch: pytest.MonkeyPatch, error: Exception, ends: bool
) -> None:
    exited = threading.Event()
    monkeypatch.setattr(consumer, "LAST_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", lambda _status: exited.set())

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(loops, "synloop", fail)
    worker = SimpleNamespace(connection_errors=(OSError,), channel_errors=())
    run = partial(consumer.run_loop, worker, None, None, None, None)
    with pytest.raises(type(error)):
        run()
    assert exited.wait(5 if ends else LATER_SECONDS) is ends


class Dispatcher:
    """Counts how often what has gathered is sent."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_the_events_of_a_moment_are_sent_together_even_after_a_lost_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "EVENTS_PAUSE_SECONDS", 0.05)
    worker: Any = consumer.Consumer.__new__(consumer.Consumer)
    worker.hub, worker.event_dispatcher = Hub(timer=Timer()), Dispatcher()

    def sent(times: int) -> bool:
        worker.hub.fire_timers()
        return bool(worker.event_dispatcher.flushes == times)

    for _ in range(10):
        worker.on_send_event_buffered()
    assert worker.event_dispatcher.flushes == 0
    eventually(lambda: sent(1), what="one message with all events")

    eventually(lambda: time.monotonic() >= worker._events_due, what="the end of the moment")
    worker.on_send_event_buffered()
    worker.hub.timer.clear()  # as Celery does when the connection is lost
    eventually(lambda: time.monotonic() >= worker._events_due, what="the end of the next one")
    worker.on_send_event_buffered()
    eventually(lambda: sent(2), what="the events after the lost timer")
