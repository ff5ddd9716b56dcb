"""The workarounds for Celery and kombu, and that the installed versions still need each of them."""

import os
import threading
from collections.abc import Callable, Generator, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer import delayed_delivery
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from kombu import Connection as KombuConnection
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer
from kombu.message import Message

from gateway.config import settings
from tasks import app, workarounds
from tasks.workarounds import Consumer, ReadingHub
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.SecurityWarning")  # containers run tests as root

DOWN = "amqp://nobody:nothing@127.0.0.1:1/nowhere"
LATER_SECONDS = 0.1
ConsumerClass = type[CeleryConsumer]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return the non-blocking reading end and the writing end of the pipe for the results of a pool's process."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def half_read(hub: Hub, fd: int, size: int, received: list[bytes]) -> None:
    """Let `hub` read a result of `size` bytes like Celery, by a generator; its second half has not arrived."""

    def read() -> Generator[None, None, None]:
        read_so_far = b""
        while len(read_so_far) < size:
            try:
                read_so_far += os.read(fd, size - len(read_so_far))
            except BlockingIOError:
                yield
        received.append(read_so_far)

    reader = read()
    next(reader)
    untyped: Any = hub  # the stubs do not know generators
    untyped.add_reader(fd, reader)


def reset_while_half_read(hub: Hub, pipe: tuple[int, int]) -> list[bytes]:
    """Reset `hub` in the middle of a result whose rest arrives a moment later; return the results that it read."""
    reading, writing = pipe
    received: list[bytes] = []
    os.write(writing, b"a re")
    half_read(hub, reading, len(b"a result"), received)
    timer = threading.Timer(LATER_SECONDS, os.write, [writing, b"sult"])
    timer.start()
    hub.reset()
    timer.join()
    assert hub.readers == {}
    hub.close()
    return received


@pytest.mark.unit
def test_a_result_that_is_half_read_when_the_connection_breaks_is_read_to_its_end(pipe: tuple[int, int]) -> None:
    assert reset_while_half_read(ReadingHub(), pipe) == [b"a result"]


@pytest.mark.unit
def test_kombu_still_loses_a_result_that_is_half_read(pipe: tuple[int, int]) -> None:
    assert reset_while_half_read(Hub(), pipe) == []


@pytest.mark.unit
def test_a_reset_does_not_wait_forever_for_a_process_that_died(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    monkeypatch.setattr(workarounds, "READ_REST_SECONDS", LATER_SECONDS)
    received: list[bytes] = []
    hub = ReadingHub()
    os.write(writing, b"a re")
    half_read(hub, reading, len(b"a result"), received)
    hub.reset()
    assert (received, hub.readers) == ([], {})
    hub.close()


@pytest.mark.unit
def test_a_worker_with_an_event_loop_uses_a_reading_hub() -> None:
    worker: Any = app.Worker(pool="prefork", concurrency=1, hostname=f"{uuid4()}@test")
    try:
        assert isinstance(worker.hub, ReadingHub)
        assert worker.consumer.hub is worker.hub
        assert worker.hub.timer is worker.timer
    finally:
        worker.hub.close()


class Delivered(Message):
    """A message that records whether it was acknowledged or rejected."""

    def __init__(self, headers: Any, body: bytes) -> None:
        values: dict[str, Any] = {"body": body, "headers": headers, "delivery_info": {}, "properties": {}}
        super().__init__(content_type="application/json", content_encoding="utf-8", **values)
        self.fate: str | None = None

    def ack_log_error(self, *_: object, **__: object) -> None:
        self.fate = "acknowledged"

    ack = ack_log_error

    def reject_log_error(self, *_: object, **__: object) -> None:
        self.fate = "rejected"


def consumer(kind: ConsumerClass) -> Any:
    """Return a consumer that knows the tasks, without a connection."""
    worker: Any = app.Worker(pool="solo", hostname=f"{uuid4()}@test")
    untyped: Any = kind
    made = untyped(worker.process_task, app=app, pool=worker.pool, timer=worker.timer, controller=worker, hub=None)
    made.update_strategies()
    return made


MALFORMED = ({"task": "payments.announce", "id": "1", "timelimit": 7}, b"[[], {}, {}]")


@pytest.mark.unit
def test_a_malformed_message_is_rejected_and_the_worker_continues() -> None:
    message = Delivered(*MALFORMED)
    consumer(Consumer).create_task_handler()(message)
    assert message.fate == "rejected"


@pytest.mark.unit
def test_celery_still_ends_because_of_a_malformed_message() -> None:
    message = Delivered(*MALFORMED)
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError, IndexError)):
        consumer(CeleryConsumer).create_task_handler()(message)
    assert message.fate is None


@pytest.mark.parametrize(("kind", "fate"), [(Consumer, "rejected"), (CeleryConsumer, "acknowledged")])
@pytest.mark.unit
def test_a_message_that_cannot_be_decoded_is_rejected_but_celery_still_acknowledges_it(
    kind: ConsumerClass, fate: str
) -> None:
    message = Delivered({"task": "payments.announce"}, b"\xff")
    consumer(kind).on_decode_error(message, ValueError("not UTF-8"))
    assert message.fate == fate


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(("kind", "confirmed"), [(Consumer, False), (CeleryConsumer, True)])
def test_the_events_are_published_without_confirms_but_celery_still_uses_the_options_of_publishers(
    kind: ConsumerClass, confirmed: bool
) -> None:
    with consumer(kind).connection_for_write() as connection:
        options = connection.transport_options
        assert options["confirm_publish"] is confirmed
        assert ("write_timeout" in options) is not confirmed


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Record the arguments of each call of kombu's `ensure_connection`, which does nothing."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(KombuConnection, "ensure_connection", lambda _, *args, **options: seen.append((args, options)))
    return seen


@pytest.mark.unit
def test_workers_retry_a_connection_after_3_s_at_most(connecting: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    consumer(Consumer).ensure_connected(app.connection_for_read())
    [((_errback, max_retries, start, step, longest), _)] = connecting
    assert (max_retries, start, step, longest) == (None, 1, 1, 3)


@pytest.mark.unit
def test_celery_still_leaves_the_intervals_of_retries_to_kombu(
    connecting: list[tuple[tuple[Any, ...], dict[str, Any]]],
) -> None:
    consumer(CeleryConsumer).ensure_connected(KombuConnection(DOWN))
    [(args, options)] = connecting
    assert len(args) <= 2
    assert not any(name.startswith("interval") for name in options)


@pytest.mark.parametrize("kind", [Consumer, CeleryConsumer])
def test_workers_do_not_declare_the_delay_queues_but_celery_still_does_at_every_broker_url(
    kind: ConsumerClass, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps: Any = kind.Blueprint.default_steps
    assert any("DelayedDelivery" in step for step in steps) is (kind is CeleryConsumer)
    if kind is CeleryConsumer:
        monkeypatch.setattr(delayed_delivery, "MAX_RETRIES", 0)
        other = Celery("other", broker=f"{DOWN};{settings().rabbitmq_url}")
        worker: Any = SimpleNamespace(app=other)
        step = DelayedDelivery(worker)
        step.start(worker)
        assert "nobody" in caplog.text, "it tried the URL that nobody answers"


class Dispatcher:
    """Counts how often the buffered events are sent."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def send_events(kind: ConsumerClass) -> tuple[Any, Callable[[int], bool]]:
    made = consumer(kind)
    made.hub, made.event_dispatcher = Hub(timer=Timer()), Dispatcher()

    def sent(times: int) -> bool:
        made.hub.fire_timers()
        return bool(made.event_dispatcher.flushes == times)

    return made, sent


@pytest.mark.unit
def test_the_events_of_a_short_time_are_sent_together_even_after_a_lost_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workarounds, "EVENTS_PAUSE_SECONDS", 0.05)
    made, sent = send_events(Consumer)
    for _ in range(10):
        made.on_send_event_buffered()
    assert made.event_dispatcher.flushes == 0
    eventually(lambda: sent(1), what="one message with all events")

    def sent_after_another() -> bool:
        made.on_send_event_buffered()
        made.hub.fire_timers()
        return bool(made.event_dispatcher.flushes > 1)

    eventually(sent_after_another, what="the events after those")
    flushes = made.event_dispatcher.flushes
    made.on_send_event_buffered()
    made.hub.timer.clear()  # as Celery does when the connection is lost

    def sent_after_loss() -> bool:
        made.on_send_event_buffered()
        made.hub.fire_timers()
        return bool(made.event_dispatcher.flushes > flushes)

    eventually(sent_after_loss, what="the events after the lost timer")


@pytest.mark.unit
def test_celery_still_sends_each_event_immediately() -> None:
    made = consumer(CeleryConsumer)
    soon: list[object] = []
    made.hub = SimpleNamespace(call_soon=soon.append)
    made.on_send_event_buffered()
    assert len(soon) == 1
