"""The outcome of each response of the sandbox acquirer."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import uuid4

import pytest

from gateway.outcomes import Approved, Charge, Declined, Outcome, Unknown
from gateway.providers.sandbox import RESPONSE_MAX_BYTES, TOKENS, SandboxProvider
from gateway.providers.simulated import REFUND_TOKENS
from gateway.sandbox.behaviour import PAYMENT_METHODS
from tests.helpers.endless_responses import ENDLESS_BEFORE_STATUS
from tests.helpers.http_servers import answering
from tests.sandbox.process import AcquirerProcess

pytestmark = pytest.mark.unit

TIMEOUT_SECONDS = 1
"""A response has 0.6 s of it."""


def new_charge(token: str = "tok_approve", attempt: int = 1) -> Charge:
    return Charge(uuid4(), 1_000, "USD", token, attempt)


MODES = [
    ("normal", "Approved", "Approved", 1),
    ("slow", "Unknown provider_timeout", "Unknown provider_timeout", 1),
    ("drop_before", "Unknown connection_lost", "Unknown connection_lost", 0),
    ("drop_after", "Unknown connection_lost", "Unknown connection_lost", 1),
    ("error_before", "Unavailable http_503", "Unknown http_503", 0),
    ("error_after", "Unknown http_500", "Unknown http_500", 1),
    ("wrong_amount", "Unknown answer_mismatch", "Unknown answer_mismatch", 1),
    ("hang", "Unknown provider_timeout", "Unknown provider_timeout", 0),
]
"""Modes of the acquirer with the outcome of an instruction, that of a status query, and the number of executions."""


def kind(outcome: Outcome) -> str:
    code = "" if isinstance(outcome, Approved) else f" {outcome.code}"
    return type(outcome).__name__ + code


@contextmanager
def responding(*pieces: bytes, pause: float = 0) -> Iterator[str]:
    """Start a server that sends `pieces` as its response, with a `pause` between them; yield its URL."""
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not ended.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                client.recv(65_536)
                for piece in pieces:
                    client.sendall(piece)
                    if ended.wait(pause):
                        return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def response(status: str, body: str = "", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return (head + body).encode()


def outcomes_at(url: str, charge: Charge | None = None) -> tuple[Outcome, Outcome]:
    """Return the outcomes of a charge and of a status query."""
    provider, charge = SandboxProvider(url, TIMEOUT_SECONDS), charge or new_charge()
    return provider.charge(charge), provider.status(charge)


def test_the_adapter_accepts_the_payment_methods_of_the_acquirer() -> None:
    assert set(PAYMENT_METHODS) == TOKENS


TOKEN_OUTCOMES = {
    "tok_approve": ["Approved"],
    "tok_decline_insufficient_funds": ["Declined insufficient_funds"],
    "tok_decline_do_not_honor": ["Declined do_not_honor"],
    "tok_decline_fraud": ["Declined fraud_suspected"],
    "tok_nonsense": ["Declined invalid_payment_method"],
    "tok_error_once": ["Unavailable http_503", "Approved"],
    "tok_error_twice": ["Unavailable http_503"] * 2 + ["Approved"],
    "tok_error_thrice": ["Unavailable http_503"] * 3 + ["Approved"],
    "tok_error_always": ["Unavailable http_503"] * 5,
    "tok_timeout_charged": ["Unknown connection_lost", "Approved"],
    "tok_timeout_not_charged": ["Unknown connection_lost", "Approved"],
    "tok_slow": ["Unknown provider_timeout"],
    "tok_late_2": ["Unknown provider_timeout", "Approved"],
    "tok_late_15": ["Unknown provider_timeout", "Approved"],
    "tok_error_after_charge": ["Unknown http_500", "Approved"],
    "tok_garbage": ["Unknown invalid_answer", "Approved"],
    "tok_wrong_amount": ["Unknown answer_mismatch", "Approved"],
    "tok_hang": ["Unknown provider_timeout"] * 2,
    "tok_hang_charged": ["Unknown provider_timeout", "Approved"],
    **{token: ["Approved"] for token in REFUND_TOKENS},
}


@pytest.mark.parametrize("token", sorted(TOKEN_OUTCOMES))
def test_each_payment_method_has_its_outcome_and_charges_at_most_once(acquirer: AcquirerProcess, token: str) -> None:
    provider, charge, expected = (
        SandboxProvider(acquirer.url, TIMEOUT_SECONDS),
        new_charge(token),
        TOKEN_OUTCOMES[token],
    )
    assert [kind(provider.charge(charge)) for _ in expected] == expected
    assert len(acquirer.charges(charge.idempotency_key)) == ("Approved" in expected)


def test_every_payment_method_has_an_expected_outcome() -> None:
    assert set(TOKEN_OUTCOMES) == TOKENS | {"tok_nonsense"}


@pytest.mark.parametrize(
    "token",
    [
        "tok_timeout_charged",
        "tok_late_2",
        "tok_late_15",
        "tok_error_after_charge",
        "tok_garbage",
        "tok_wrong_amount",
        "tok_hang_charged",
    ],
)
def test_a_charge_whose_response_was_lost_is_found_by_its_key(acquirer: AcquirerProcess, token: str) -> None:
    charge = new_charge(token)
    charged, status = outcomes_at(acquirer.url, charge)
    assert isinstance(charged, Unknown)
    assert status == Approved(acquirer.charges(charge.idempotency_key)[0]["id"])


@pytest.mark.parametrize("token", ["tok_timeout_not_charged", "tok_error_once"])
def test_a_status_query_reports_that_nothing_was_charged(acquirer: AcquirerProcess, token: str) -> None:
    assert kind(outcomes_at(acquirer.url, new_charge(token))[1]) == "Unavailable not_charged"


def test_a_charge_in_progress_is_unknown(acquirer: AcquirerProcess) -> None:
    charged, status = outcomes_at(acquirer.url, new_charge("tok_slow"))
    assert (kind(charged), kind(status)) == ("Unknown provider_timeout", "Unknown in_progress")


def test_a_decline_is_found_by_its_key(acquirer: AcquirerProcess) -> None:
    charged, status = outcomes_at(acquirer.url, new_charge("tok_decline_fraud"))
    assert charged == status
    assert isinstance(status, Declined)


@pytest.mark.parametrize(
    ("mode", "charged", "status", "charges"),
    MODES,
)
def test_each_mode_has_its_outcomes_of_a_charge(
    acquirer: AcquirerProcess, mode: str, charged: str, status: str, charges: int
) -> None:
    acquirer.control(mode, calls="all", late_ms=5_000)
    charge = new_charge()
    assert tuple(map(kind, outcomes_at(acquirer.url, charge))) == (charged, status)
    assert len(acquirer.charges(charge.idempotency_key)) == charges


def test_garbage_of_either_kind_is_unknown(acquirer: AcquirerProcess) -> None:
    acquirer.control("garbage", calls="all", seed=1)
    outcomes = [outcome for _ in range(10) for outcome in outcomes_at(acquirer.url)]
    assert {kind(outcome) for outcome in outcomes} == {"Unknown invalid_answer", "Unknown connection_lost"}


def test_an_acquirer_that_refuses_connections_has_not_charged(own_acquirer: AcquirerProcess) -> None:
    provider, charge = SandboxProvider(own_acquirer.url, TIMEOUT_SECONDS), new_charge()
    assert isinstance(provider.charge(charge), Approved)  # leaves a connection to be closed
    own_acquirer.control("refuse", seconds=30)
    assert kind(provider.charge(new_charge())) == "Unavailable connection_refused"
    assert kind(provider.status(charge)) == "Unknown connection_refused"


def test_a_host_without_an_address_has_not_charged() -> None:
    charged, status = outcomes_at("http://acquirer.invalid:9")
    assert (kind(charged), kind(status)) == ("Unavailable connection_refused", "Unknown connection_refused")


def test_a_host_that_accepts_no_connection_has_not_charged() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),  # fills the queue
    ):
        charged, status = outcomes_at(f"http://127.0.0.1:{full.getsockname()[1]}")
    assert (kind(charged), kind(status)) == ("Unavailable connect_timeout", "Unknown connect_timeout")


def test_a_connection_that_was_closed_while_idle_makes_no_charge_unknown(own_acquirer: AcquirerProcess) -> None:
    provider = SandboxProvider(own_acquirer.url, TIMEOUT_SECONDS)
    for _ in range(3):
        assert isinstance(provider.charge(new_charge()), Approved)
        own_acquirer.kill()
        own_acquirer.start()


HEAD = b"HTTP/1.1 201 Created\r\nContent-Length: 5000\r\n\r\n"
ENDLESS_HEAD = b"HTTP/1.1 201 Created\r\nX-Header: "


@pytest.mark.parametrize("start", [b"", ENDLESS_HEAD, HEAD], ids=["first line", "headers", "body"])
def test_a_slow_response_is_aborted_in_time(start: bytes) -> None:
    pieces: Sequence[bytes] = [start, *[b"h"] * 1_000]
    with responding(*pieces, pause=0.05) as url:
        started = time.monotonic()
        outcome = SandboxProvider(url, TIMEOUT_SECONDS).charge(new_charge())
        assert time.monotonic() - started < TIMEOUT_SECONDS
    assert kind(outcome) == "Unknown provider_timeout"


@pytest.mark.parametrize("name", ["100 Continue", "shortest 100"])
def test_an_endless_response_is_aborted_at_the_limit(name: str) -> None:
    with answering(ENDLESS_BEFORE_STATUS[name]) as url:
        outcome = SandboxProvider(url, 10 * TIMEOUT_SECONDS).charge(new_charge())
    assert kind(outcome) == "Unknown connection_lost"


UNUSABLE_RESPONSES = {
    "no response": b"",
    "half a head": b"HTTP/1.1 201 Cre",
    "half a body": b'HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"id": "ch_1"',
    "no object": response("201 Created", "[]"),
    "too little": response("201 Created", '{"id": "ch_1", "status": "approved"}'),
    "too much": response("201 Created", " " * (RESPONSE_MAX_BYTES + 1)),
    "a redirect": response("302 Found", headers="Location: http://127.0.0.1:9/\r\n"),
    "not found by a proxy": response("404 Not Found", "<html>"),
    "not found without a code": response("404 Not Found", '{"error": "unknown_charge"}'),
    "unauthorized": response("401 Unauthorized", '{"error": {"code": "unauthorized"}}'),
    "conflict": response("409 Conflict", '{"error": {"code": "idempotency_conflict"}}'),
    "bad request": response("400 Bad Request", '{"error": {"code": "invalid_request"}}'),
    "bad gateway": response("502 Bad Gateway", "<html>"),
    "gateway timeout": response("504 Gateway Timeout", "<html>"),
    "no content": response("204 No Content"),
}


@pytest.mark.parametrize("name", sorted(UNUSABLE_RESPONSES))
def test_an_unusable_response_is_unknown(name: str) -> None:
    with responding(UNUSABLE_RESPONSES[name]) as url:
        assert [type(outcome) for outcome in outcomes_at(url)] == [Unknown, Unknown]


@pytest.mark.parametrize("change", [("key", "other"), ("amount", "1001"), ("currency", "EUR")])
def test_a_response_about_another_charge_is_unknown(change: tuple[str, str]) -> None:
    charge = new_charge()
    fields = {"key": charge.idempotency_key, "amount": "1000", "currency": "USD"} | dict([change])
    body = (
        f'{{"id": "ch_1", "idempotency_key": "{fields["key"]}", "status": "approved", "amount": {fields["amount"]}, '
        f'"currency": "{fields["currency"]}"}}'
    )
    with responding(response("200 OK", body)) as url:
        assert [kind(outcome) for outcome in outcomes_at(url, charge)] == ["Unknown answer_mismatch"] * 2


def test_a_rate_limit_means_not_processed() -> None:
    with responding(response("429 Too Many Requests")) as url:
        assert tuple(map(kind, outcomes_at(url))) == ("Unavailable http_429", "Unknown http_429")
