"""The monitor reads messages of any content from the dead-letter queues."""

import json
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from tasks import monitor
from tests.helpers.factories import accept_payment, count, execute, make_merchant
from tests.helpers.refunds import paid, request_refund

ID = UUID("0199a0de-0000-7000-8000-000000000001")
DELAY = {"queue": "celery_delayed_3", "reason": "expired"}


def message(body: Any, headers: Any = None, routing_key: str = "dlq.settlement.requested") -> Any:
    return SimpleNamespace(body=body, headers=headers, delivery_info={"routing_key": routing_key})


def dead(queue: str = "settlement.requested", reason: str = "rejected") -> dict[str, Any]:
    return {"queue": queue, "reason": reason, "time": datetime(2026, 1, 2, 3, 4, 5)}  # noqa: DTZ001  # as AMQP has it


def body(*ids: object) -> bytes:
    return json.dumps([[list(ids)], {}, {"chain": None}]).encode()


def test_queue_reason_time_and_ids_are_read() -> None:
    headers = {"id": "task-1", "task": "payments.settle", "x-death": [DELAY, dead()]}
    parsed = monitor.parse(message(body(str(ID)), headers))
    assert (parsed.message_key, parsed.task, parsed.queue, parsed.reason) == (
        "task-1", "payments.settle", "settlement.requested", "rejected",
    )  # fmt: skip
    assert parsed.transaction_ids == (ID,)
    assert parsed.dead_lettered_at.isoformat() == "2026-01-02T03:04:05+00:00"


def test_a_repeated_id_counts_once() -> None:
    assert monitor.parse(message(body(str(ID), str(ID)), {"x-death": [dead()]})).transaction_ids == (ID,)


def test_only_payment_queues_name_transactions() -> None:
    parsed = monitor.parse(message(body(str(ID)), {"x-death": [dead("operations")]}, "dlq.operations"))
    assert parsed.transaction_ids == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe\x00garbage\x00",
        b"null",
        b"[]",
        b"[[]]",
        b'[[["not-an-id"]]]',
        body("0199A0DE-0000-7000-8000-000000000001"),
        body(1, 2),
        b"[" * 100_000,
        b'{"a": NaN}',
        body(*[str(uuid4()) for _ in range(monitor.IDS_MAX + 1)]),
        "text",
        None,
        5,
        {"already": "decoded"},
    ],
    ids=range(16),
)
def test_a_malformed_body_names_no_transaction(raw: object) -> None:
    parsed = monitor.parse(message(raw, {"x-death": [dead()]}))
    assert parsed.transaction_ids == ()
    assert "\x00" not in parsed.payload
    assert len(parsed.payload) <= monitor.PAYLOAD_MAX_CHARACTERS


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        "x",
        {},
        {"x-death": None},
        {"x-death": ["x", 3, {}]},
        {"x-death": {}},
        {"id": 5, "task": ["x"]},
        {"id": "x" * 100_000, "task": "y" * 100_000},
        {"id": "\x00", "task": "\x00", "deep\x00": {"a": b"\xff"}},
        {"big": "z" * 1_000_000},
        {"x-death": [{"queue": None, "reason": 7, "time": "yesterday"}]},
    ],
    ids=range(12),
)
@pytest.mark.usefixtures("database")
def test_malformed_headers_are_stored(headers: object) -> None:
    monitor.store_dead([monitor.parse(message(b"\xff", headers))])
    assert count("dead_letters") == 1
    assert count("alerts") == 1


def test_the_ids_of_the_refund_queue_are_refunds() -> None:
    headers = {"id": "task-1", "task": "payments.refund", "x-death": [dead("refund.requested")]}
    parsed = monitor.parse(message(body(str(ID)), headers, "dlq.refund.requested"))
    assert (parsed.transaction_ids, parsed.refund_ids) == ((), (ID,))


@pytest.mark.usefixtures("database")
def test_an_expired_refund_message_is_enqueued_again() -> None:
    id = request_refund(paid())
    execute("DELETE FROM outbox")
    headers = {"id": "task-1", "task": "payments.refund", "x-death": [dead("refund.requested", "expired")]}
    monitor.store_dead([monitor.parse(message(body(str(id)), headers, "dlq.refund.requested"))])
    assert count("outbox", "topic = 'refund.requested'") == 1
    assert count("dead_letters") == 0


@pytest.mark.usefixtures("database")
def test_an_expired_scheduled_job_is_no_dead_letter() -> None:
    headers = {"id": "beat-1", "task": "operations.sweep", "x-death": [dead("operations", "expired")]}
    monitor.store_dead([monitor.parse(message(b"[[], {}, {}]", headers, "dlq.operations"))])
    assert (count("dead_letters"), count("alerts")) == (0, 0)


@pytest.mark.usefixtures("database")
def test_an_expired_payment_message_is_enqueued_again() -> None:
    id = accept_payment(make_merchant())
    execute("DELETE FROM outbox")
    headers = {"id": "task-1", "task": "payments.route", "x-death": [dead("transaction.created", "expired")]}
    monitor.store_dead([monitor.parse(message(body(str(id)), headers, "dlq.transaction.created"))])
    assert count("outbox", "topic = 'transaction.created'") == 1
    assert count("dead_letters") == 0


def test_a_dead_letter_of_a_bulk_queue_has_the_name_of_the_main_queue() -> None:
    headers = {"id": "task-1", "task": "payments.settle", "x-death": [dead("settlement.requested.bulk")]}
    parsed = monitor.parse(message(body(str(ID)), headers))
    assert (parsed.queue, parsed.transaction_ids) == ("settlement.requested", (ID,))
