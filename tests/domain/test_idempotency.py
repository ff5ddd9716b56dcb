"""Work of several statements that is done once for a key (docs/idempotency.md)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from gateway.db import begin
from gateway.domain.shared import audit, idempotency
from gateway.domain.shared.idempotency import IdempotencyKey, IdempotentResponse, StoredResponse
from gateway.errors import IdempotencyInProgress, IdempotencyKeyReused, InvalidState
from gateway.ids import new_id
from tests.helpers.factories import count, execute, make_merchant

pytestmark = pytest.mark.usefixtures("database")

CONCURRENT = 20  # the connections of the pool
SUBJECT = uuid4()


def key(body: bytes = b"{}", path: str = "/v1/things") -> IdempotencyKey:
    return IdempotencyKey.of("key-1", "POST", path, body)


def do_once(
    merchant_id: UUID, key: IdempotencyKey | None, effect: Callable[[], None] = lambda: None
) -> IdempotentResponse:
    """Write one row of the audit log once; return the response."""
    with begin() as connection:

        def work() -> StoredResponse:
            audit.record(connection, actor="test", action="work", subject=str(SUBJECT))
            effect()
            return StoredResponse(201, f'{{"made": "{new_id()}"}}', "/v1/things/1")

        return idempotency.once(connection, merchant_id, key, SUBJECT, work)


def test_a_repeated_request_gets_the_first_response_and_does_nothing() -> None:
    merchant_id = make_merchant()
    first, repeat = do_once(merchant_id, key()), do_once(merchant_id, key())
    assert (first.replayed, repeat.replayed) == (False, True)
    assert repeat.response == first.response
    assert count("audit_log") == 1


def test_concurrent_requests_with_one_key_do_the_work_once() -> None:
    merchant_id = make_merchant()
    with ThreadPoolExecutor(CONCURRENT) as threads:
        given = list(threads.map(lambda _: do_once(merchant_id, key()), range(200)))
    assert len({answer.response for answer in given}) == 1
    assert [answer.replayed for answer in given].count(False) == 1
    assert count("audit_log") == count("idempotency_records") == 1


def test_work_that_fails_leaves_neither_effect_nor_record() -> None:
    merchant_id = make_merchant()

    def fail() -> None:
        raise InvalidState

    with pytest.raises(InvalidState):
        do_once(merchant_id, key(), fail)
    assert count("audit_log") == count("idempotency_records") == 0
    assert not do_once(merchant_id, key()).replayed


@pytest.mark.parametrize("other", [key(body=b"[]"), key(path="/v1/others")])
def test_a_key_of_another_request_is_rejected(other: IdempotencyKey) -> None:
    merchant_id = make_merchant()
    do_once(merchant_id, key())
    with pytest.raises(IdempotencyKeyReused):
        do_once(merchant_id, other)
    assert count("audit_log") == 1


def test_a_key_whose_first_request_is_still_running_is_in_progress() -> None:
    merchant_id = make_merchant()
    refused: list[IdempotencyInProgress] = []

    def meet_another() -> None:
        with pytest.raises(IdempotencyInProgress) as raised:
            do_once(merchant_id, key())
        refused.append(raised.value)

    first = do_once(merchant_id, key(), meet_another)
    assert refused[0].headers["Retry-After"] == "1"
    assert do_once(merchant_id, key()).response == first.response
    assert count("audit_log") == 1


def test_keys_of_two_merchants_are_independent() -> None:
    assert not any(do_once(make_merchant(), key()).replayed for _ in range(2))


def test_without_a_key_the_work_is_done_each_time() -> None:
    merchant_id = make_merchant()
    assert not any(do_once(merchant_id, None).replayed for _ in range(2))
    assert (count("audit_log"), count("idempotency_records")) == (2, 0)


def test_a_record_that_is_purged_concurrently_leads_to_a_retry() -> None:
    merchant_id = make_merchant()
    do_once(merchant_id, key())
    execute("DELETE FROM idempotency_records")
    with begin() as connection, pytest.raises(IdempotencyInProgress):
        idempotency.first_response(connection, merchant_id, key())
