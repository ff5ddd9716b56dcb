"""Dead, slow and hostile receivers do not delay the deliveries to others."""

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
SHORT_CALL_SECONDS = 4.0
"""Maximum time of a call in these tests. A delivery within `PROMPT_SECONDS` has not waited for such a call."""
IN_PROGRESS = "status = 'pending' AND next_attempt_at > now() AND attempts = 0"


@pytest.fixture
def _short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_calls, "CALL_SECONDS", SHORT_CALL_SECONDS)
    monkeypatch.setattr(webhook_calls, "RESPONSE_SECONDS", 0.2)


def trickle(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 10_000:
        connection.send(bytes([byte]))
        time.sleep(1)  # the receiver is slow on purpose


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


@pytest.mark.usefixtures("_short_calls")
@pytest.mark.parametrize("misbehave", [trickle, endless, reset, garbage, silent])
def test_a_misbehaving_receiver_does_not_delay_others(
    delivery_loop: DeliveryLoop, misbehave: Callable[[socket.socket], None]
) -> None:
    bad_merchant, good_merchant = make_merchant(), make_merchant()
    with answering(misbehave) as bad_url, receiver() as good:
        bad_endpoint, _ = make_endpoint(bad_merchant, bad_url)
        good_endpoint, _ = make_endpoint(good_merchant, good.url)
        complete_payments(bad_merchant, 40)
        delivery_loop.wake([bad_endpoint])
        eventually(lambda: any(row.next_attempt_at > datetime.now(UTC) for row in deliveries(bad_endpoint)))
        for number in range(1, 4):
            complete_payments(good_merchant, 10)
            delivery_loop.wake([good_endpoint])
            eventually(lambda: len(good.calls) == 20 * number, within=PROMPT_SECONDS, what="the good deliveries")  # noqa: B023
        assert "succeeded" not in statuses(bad_endpoint)


def test_the_duration_of_a_call_is_limited_even_if_its_response_arrives_byte_by_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook_calls, "CALL_SECONDS", 1.5)
    merchant_id = make_merchant()
    with loopback_allowed(), answering(trickle) as url:
        endpoint_id, _ = make_endpoint(merchant_id, url, COMPLETED)
        complete_payments(merchant_id)
        delivery_loop = DeliveryLoop()
        delivery_loop.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), within=4, what="the end of the call")
        delivery_loop.close()
    assert deliveries(endpoint_id)[0].last_error == "no response within 1.5 s"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 2\x000 OK\r\n\r\n",
        b"\x00\x00\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: \x00\r\n\r\n",
        b"HTTP/1.1 200 \xed\xa0\x80\xff\r\nX\xff: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 abc " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
def test_a_malformed_response_is_recorded_as_a_short_printable_error(
    delivery_loop: DeliveryLoop, response: bytes
) -> None:
    merchant_id = make_merchant()

    with answering(lambda connection: connection.sendall(response)) as url:
        endpoint_id, _ = make_endpoint(merchant_id, url, COMPLETED)
        complete_payments(merchant_id)
        delivery_loop.wake([endpoint_id])
        eventually(attempted(endpoint_id, 1), within=8, what="the recorded attempt")
    error = deliveries(endpoint_id)[0].last_error
    assert error is None or (len(error) <= webhook_calls.ERROR_MAX_LENGTH and error.isprintable())


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x" * 10_000, "line\nbreak"])
def test_the_description_of_an_error_can_be_stored(text: str) -> None:
    error = webhook_calls.describe(ValueError(text))
    assert len(error) <= webhook_calls.ERROR_MAX_LENGTH
    assert error.isprintable()


@pytest.mark.usefixtures("_short_calls")
def test_hundreds_of_receivers_that_accept_and_never_respond_do_not_delay_others(delivery_loop: DeliveryLoop) -> None:
    dead_merchants, good_merchant = [make_merchant() for _ in range(20)], make_merchant()
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as dead, receiver() as good:
        url = f"http://127.0.0.1:{dead.getsockname()[1]}/"
        dead_endpoints = [make_endpoint(id, url, COMPLETED)[0] for id in dead_merchants for _ in range(16)]
        good_endpoint, _ = make_endpoint(good_merchant, good.url)
        for merchant_id in dead_merchants:
            complete_payments(merchant_id, 3)
        delivery_loop.wake(dead_endpoints)
        eventually(
            lambda: count("webhook_deliveries", "next_attempt_at > now()") >= 320, what="the calls of dead receivers"
        )
        complete_payments(good_merchant, 50)
        delivery_loop.wake([good_endpoint])
        eventually(lambda: len(good.calls) == 100, within=PROMPT_SECONDS, what="the good deliveries")
        assert count("webhook_deliveries", "next_attempt_at > now()") >= 320


@pytest.mark.usefixtures("_short_calls")
def test_the_calls_in_progress_of_all_failing_endpoints_are_limited(
    delivery_loop: DeliveryLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "FAILING_CALLS_MAX", 5)
    failing_merchant, good_merchant = make_merchant(), make_merchant()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as dead, receiver() as good:
        url = f"http://127.0.0.1:{dead.getsockname()[1]}/"
        failing = [make_endpoint(failing_merchant, url, COMPLETED, consecutive_failures=1)[0] for _ in range(12)]
        good_endpoint, _ = make_endpoint(good_merchant, good.url, COMPLETED)
        complete_payments(failing_merchant, 2)
        complete_payments(good_merchant, 10)
        delivery_loop.wake(failing)
        eventually(lambda: count("webhook_deliveries", IN_PROGRESS) == 5, what="five calls")
        delivery_loop.wake([*failing, good_endpoint])
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
def test_many_receivers_with_endless_responses_do_not_delay_others(
    delivery_loop: DeliveryLoop, behave: Callable[[socket.socket], object]
) -> None:
    bad_merchants, good_merchant = [make_merchant() for _ in range(4)], make_merchant()
    with answering(behave) as bad_url, receiver() as good:
        bad = [make_endpoint(id, bad_url, COMPLETED)[0] for id in bad_merchants for _ in range(4)]
        good_endpoint, _ = make_endpoint(good_merchant, good.url)
        for merchant_id in bad_merchants:
            complete_payments(merchant_id, 5)
        complete_payments(good_merchant, 25)
        delivery_loop.wake([*bad, good_endpoint])
        eventually(lambda: len(good.calls) == 50, within=2 * PROMPT_SECONDS, what="the good deliveries")
        complete_payments(good_merchant, 25)
        delivery_loop.wake([good_endpoint])
        eventually(lambda: len(good.calls) == 100, within=2 * PROMPT_SECONDS, what="the next good deliveries")


def test_a_receiver_that_sends_too_much_is_paused_and_called_again_later(
    delivery_loop: DeliveryLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "PAUSE_SECONDS", 1.0)
    merchant_id = make_merchant()
    calls: list[float] = []
    with answering(counting(ENDLESS_BEFORE_STATUS["100 Continue"], calls)) as url:
        endpoint_id, _ = make_endpoint(merchant_id, url, COMPLETED)
        complete_payments(merchant_id, 5)
        delivery_loop.wake([endpoint_id])
        eventually(lambda: any(row.attempts for row in deliveries(endpoint_id)), what="the end of the first call")
        delivery_loop.wake([endpoint_id])
        eventually(lambda: len(calls) == 2, what="the second call")
    assert calls[1] - calls[0] >= 1.0
    [first, *_] = sorted(deliveries(endpoint_id), key=lambda row: -row.attempts)
    assert (first.status, first.response_status) == ("pending", None)
    assert first.last_error.endswith(f"more than {RECEIVED_MAX_BYTES} bytes, or arrives in too many segments")
