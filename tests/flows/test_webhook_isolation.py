"""Receivers that are dead, slow or hostile: nobody else's deliveries wait for them."""

import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from gateway.flows import webhook_calls, webhooks
from gateway.flows.webhooks import DeliveryLoop
from gateway.security.public_http import RECEIVED_MAX_BYTES
from gateway.states import EventType
from tests.helpers.endless_responses import ENDLESS_AFTER_STATUS, ENDLESS_BEFORE_STATUS
from tests.helpers.factories import count, make_merchant
from tests.helpers.http_servers import answering
from tests.helpers.waiting import eventually
from tests.helpers.webhooks import (
    attempted,
    complete_payments,
    deliveries,
    loopback_allowed,
    make_endpoint,
    receiver,
    statuses,
)

pytestmark = pytest.mark.usefixtures("database")

COMPLETED = EventType.TRANSACTION_COMPLETED
PROMPT_SECONDS = 3.0
PATIENCE_SECONDS = 4.0
"""What a receiver may take in these tests: what is prompt has not waited for one of them."""
IN_PROGRESS = "status = 'pending' AND next_attempt_at > now() AND attempts = 0"


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_calls, "CALL_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(webhook_calls, "RESPONSE_SECONDS", 0.2)


def trickle(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 10_000:
        connection.send(bytes([byte]))
        time.sleep(1)  # what makes it a slow receiver


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 500 Oh\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65_536)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def garbage(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n\xff\x00" * 10)


def silent(connection: socket.socket) -> None:
    connection.recv(1)


@pytest.mark.usefixtures("_patience")
@pytest.mark.parametrize("misbehave", [trickle, endless, reset, garbage, silent])
def test_a_receiver_that_misbehaves_delays_nobody_else(
    courier: DeliveryLoop, misbehave: Callable[[socket.socket], None]
) -> None:
    bad_merchant, good_merchant = make_merchant(), make_merchant()
    with answering(misbehave) as bad_url, receiver() as good:
        bad_endpoint, _ = make_endpoint(bad_merchant, bad_url)
        good_endpoint, _ = make_endpoint(good_merchant, good.url)
        complete_payments(bad_merchant, 40)
        courier.wake([bad_endpoint])
        eventually(lambda: any(row.next_attempt_at > datetime.now(UTC) for row in deliveries(bad_endpoint)))
        for number in range(1, 4):
            complete_payments(good_merchant, 10)
            courier.wake([good_endpoint])
            eventually(lambda: len(good.calls) == 20 * number, within=PROMPT_SECONDS, what="the good deliveries")  # noqa: B023
        assert "succeeded" not in statuses(bad_endpoint)


def test_the_whole_call_is_bounded_however_slowly_the_answer_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_calls, "CALL_SECONDS", 1.5)
    merchant_id = make_merchant()
    with loopback_allowed(), answering(trickle) as url:
        endpoint_id, _ = make_endpoint(merchant_id, url, COMPLETED)
        complete_payments(merchant_id)
        courier = DeliveryLoop()
        courier.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), within=4, what="the end of the call")
        courier.close()
    assert deliveries(endpoint_id)[0].last_error == "no response within 1.5 s"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 2\x000 OK\r\n\r\n",
        b"\x00\x00\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: \x00\r\n\r\n",
        b"HTTP/1.1 200 \xed\xa0\x80\xff\r\nX\xff: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 abc " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
def test_whatever_a_receiver_says_is_recorded_in_few_words(courier: DeliveryLoop, answer: bytes) -> None:
    merchant_id = make_merchant()

    with answering(lambda connection: connection.sendall(answer)) as url:
        endpoint_id, _ = make_endpoint(merchant_id, url, COMPLETED)
        complete_payments(merchant_id)
        courier.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), within=8, what="the attempt on record")
    error = deliveries(endpoint_id)[0].last_error
    assert error is None or (len(error) <= webhook_calls.ERROR_MAX_LENGTH and error.isprintable())


@pytest.mark.parametrize("words", ["a\x00b", "\ud800", "x" * 10_000, "line\nbreak"])
def test_what_went_wrong_is_told_in_words_that_can_be_stored(words: str) -> None:
    error = webhook_calls.describe(ValueError(words))
    assert len(error) <= webhook_calls.ERROR_MAX_LENGTH
    assert error.isprintable()


@pytest.mark.usefixtures("_patience")
def test_hundreds_of_receivers_that_accept_and_never_answer_delay_nobody_else(courier: DeliveryLoop) -> None:
    dead_merchants, good_merchant = [make_merchant() for _ in range(20)], make_merchant()
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as dead, receiver() as good:
        url = f"http://127.0.0.1:{dead.getsockname()[1]}/"
        dead_endpoints = [make_endpoint(id, url, COMPLETED)[0] for id in dead_merchants for _ in range(16)]
        good_endpoint, _ = make_endpoint(good_merchant, good.url)
        for merchant_id in dead_merchants:
            complete_payments(merchant_id, 3)
        courier.wake(dead_endpoints)
        eventually(lambda: count("webhook_deliveries", "next_attempt_at > now()") >= 320, what="the dead ones in hand")
        complete_payments(good_merchant, 50)
        courier.wake([good_endpoint])
        eventually(lambda: len(good.calls) == 100, within=PROMPT_SECONDS, what="the good deliveries")
        assert count("webhook_deliveries", "next_attempt_at > now()") >= 320


@pytest.mark.usefixtures("_patience")
def test_failing_endpoints_together_have_a_bounded_number_of_calls_in_hand(
    courier: DeliveryLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "FAILING_CALLS_MAX", 5)
    failing_merchant, good_merchant = make_merchant(), make_merchant()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as dead, receiver() as good:
        url = f"http://127.0.0.1:{dead.getsockname()[1]}/"
        failing = [make_endpoint(failing_merchant, url, COMPLETED, consecutive_failures=1)[0] for _ in range(12)]
        good_endpoint, _ = make_endpoint(good_merchant, good.url, COMPLETED)
        complete_payments(failing_merchant, 2)
        complete_payments(good_merchant, 10)
        courier.wake(failing)
        eventually(lambda: count("webhook_deliveries", IN_PROGRESS) == 5, what="five calls")
        courier.wake([*failing, good_endpoint])
        eventually(lambda: len(good.calls) == 10, within=PROMPT_SECONDS, what="the good deliveries")
        assert count("webhook_deliveries", f"{IN_PROGRESS} AND merchant_id = '{failing_merchant}'") == 5


def counting(behave: Callable[[socket.socket], object], calls: list[float]) -> Callable[[socket.socket], None]:
    """Return a receiver that records the time of each call and then calls `behave`."""

    def handle(connection: socket.socket) -> None:
        calls.append(time.monotonic())
        behave(connection)

    return handle


@pytest.mark.parametrize(
    "behave",
    [*ENDLESS_BEFORE_STATUS.values(), *ENDLESS_AFTER_STATUS.values()],
    ids=[*ENDLESS_BEFORE_STATUS, *ENDLESS_AFTER_STATUS],
)
def test_many_receivers_that_answer_without_end_delay_nobody_else(
    courier: DeliveryLoop, behave: Callable[[socket.socket], object]
) -> None:
    bad_merchants, good_merchant = [make_merchant() for _ in range(4)], make_merchant()
    with answering(behave) as bad_url, receiver() as good:
        bad = [make_endpoint(id, bad_url, COMPLETED)[0] for id in bad_merchants for _ in range(4)]
        good_endpoint, _ = make_endpoint(good_merchant, good.url)
        for merchant_id in bad_merchants:
            complete_payments(merchant_id, 5)
        complete_payments(good_merchant, 25)
        courier.wake([*bad, good_endpoint])
        eventually(lambda: len(good.calls) == 50, within=2 * PROMPT_SECONDS, what="the good deliveries")
        complete_payments(good_merchant, 25)
        courier.wake([good_endpoint])
        eventually(lambda: len(good.calls) == 100, within=2 * PROMPT_SECONDS, what="the next good deliveries")


def test_a_receiver_that_sends_more_than_an_answer_is_paused_and_asked_again_later(
    courier: DeliveryLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "PAUSE_SECONDS", 1.0)
    merchant_id = make_merchant()
    calls: list[float] = []
    with answering(counting(ENDLESS_BEFORE_STATUS["100 Continue"], calls)) as url:
        endpoint_id, _ = make_endpoint(merchant_id, url, COMPLETED)
        complete_payments(merchant_id, 5)
        courier.wake([endpoint_id])
        eventually(lambda: any(row.attempts for row in deliveries(endpoint_id)), what="the end of the first call")
        courier.wake([endpoint_id])
        eventually(lambda: len(calls) == 2, what="the second call")
    assert calls[1] - calls[0] >= 1.0
    [first, *_] = sorted(deliveries(endpoint_id), key=lambda row: -row.attempts)
    assert (first.status, first.response_status) == ("pending", None)
    assert first.last_error.endswith(f"more than {RECEIVED_MAX_BYTES} bytes, or arrives in too many segments")
