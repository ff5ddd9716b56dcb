"""Jobs that replay or discard many dead letters, step by step."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from loguru import logger

from gateway.api.http.schemas import page_of
from gateway.api.resources.dead_letter_jobs import DeadLetterJob
from gateway.db import begin
from gateway.domain.dead_letters import bulk_jobs, intake
from gateway.domain.dead_letters.intake import DeadMessage
from gateway.flows import upkeep
from gateway.flows.dead_letters import run_job_step
from gateway.ids import new_id, rfc3339, utc_now
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.api.resources.test_dead_letters import SETTLE, dead_payment, listed
from tests.helpers.factories import count, execute

BULK = "/v1/dead-letters/bulk"


def create(operator: Caller, **fields: Any) -> dict[str, Any]:
    response = operator.post(BULK, {"action": "replay", "filter": {}, **fields})
    assert response.status_code == 202, response.text
    DeadLetterJob.model_validate_json(response.data)
    job: dict[str, Any] = response.json
    assert response.headers["Location"] == f"{BULK}/{job['id']}"
    return job


def make_due() -> None:
    execute("UPDATE dead_letter_jobs SET next_step_at = now()")


def run_to_its_end(job: dict[str, Any]) -> int:
    """Take all steps without pauses; return their number."""
    steps = 1
    while run_job_step(UUID(job["id"])):
        make_due()
        steps += 1
    return steps


def read(operator: Caller, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = operator.get(f"{BULK}/{job['id']}").json
    return found


def letter_without_transaction() -> None:
    """Create a dead letter without a transaction."""
    with begin() as connection:
        message = DeadMessage(f"m-{new_id()}", SETTLE, "rejected", None, "not json", {}, utc_now())
        intake.store(connection, [message])


def test_a_job_replays_every_open_dead_letter_once(operator: Caller, merchant: Caller) -> None:
    payments = [dead_payment(merchant) for _ in range(5)]
    already = listed(operator)[0]["id"]
    operator.post(f"/v1/dead-letters/{already}/replay")
    before = count("outbox")

    job = create(operator, max_per_second=2, note="provider is back")
    assert (job["count"], job["status"], job["done"]) == (4, "running", 0)
    assert count("outbox", "topic = 'dead_letter_job.due'") == 1
    assert run_to_its_end(job) == 3

    done = read(operator, job)
    assert (done["status"], done["done"], done["failed"], done["skipped"]) == ("completed", 4, 0, 0)
    assert done["finished_at"]
    assert {merchant.get(f"/v1/transactions/{id}").json["status"] for id in payments} == {"processing"}
    assert count("outbox") == before + 1 + 4
    assert count("audit_log", "action = 'dead_letter.replayed'") == 5
    assert count("audit_log", "action = 'dead_letter_job.created'") == 1
    assert count("dead_letters", "note = 'provider is back' AND resolved_by LIKE 'user:%'") == 4
    assert run_job_step(UUID(job["id"])) is False
    assert count("outbox") == before + 1 + 4


def test_each_step_is_logged_with_the_id_of_the_request(operator: Caller) -> None:
    letter_without_transaction()
    response = operator.post(
        BULK, {"action": "discard", "filter": {}, "note": "garbage"}, headers={"X-Request-Id": "req-bulk"}
    )
    records: list[Any] = []
    sink = logger.add(lambda message: records.append(message.record))
    try:
        run_to_its_end(response.json)
    finally:
        logger.remove(sink)
    [step] = [record for record in records if record["message"].startswith(f"job {response.json['id']}")]
    assert step["message"].endswith("1 of 1 dead letters resolved by discard")
    assert step["extra"]["request_id"] == "req-bulk"


def test_a_job_discards_only_the_dead_letters_that_match_its_filter(
    operator: Caller, merchant: Caller, other_merchant: Caller
) -> None:
    first = dead_payment(merchant)
    between = utc_now()
    second = dead_payment(merchant)
    dead_payment(other_merchant)
    dead_payment(merchant, queue="transaction.created", reason="expired")
    wanted = {
        "status": "open",
        "queue": SETTLE,
        "reason": "rejected",
        "merchant_id": str(merchant.merchant_id),
        "dead_lettered_from": rfc3339(between),
        "dead_lettered_to": rfc3339(utc_now()),
    }

    job = create(operator, action="discard", filter=wanted, note="gone")
    assert job["filter"] == {name: value for name, value in wanted.items() if name != "status"}
    assert job["count"] == 1
    run_to_its_end(job)

    assert merchant.get(f"/v1/transactions/{second}").json["failure"]["category"] == "discarded"
    assert merchant.get(f"/v1/transactions/{first}").json["status"] == "dead_lettered"
    assert count("dead_letters", "status = 'open'") == 3


def test_a_dry_run_only_counts(operator: Caller, merchant: Caller) -> None:
    dead_payment(merchant)

    job = create(operator, dry_run=True)

    assert (job["count"], job["status"], job["dry_run"], job["skipped"]) == (1, "completed", True, 0)
    assert run_job_step(UUID(job["id"])) is False
    assert (count("dead_letters", "status = 'open'"), count("outbox", "topic LIKE 'dead_letter%'")) == (1, 0)
    assert count("audit_log", "action LIKE 'dead_letter%'") == 0


def test_a_job_without_dead_letters_is_completed_immediately(operator: Caller) -> None:
    assert create(operator)["status"] == "completed"


def test_a_payment_that_is_dead_lettered_again_is_not_replayed_by_the_same_job(
    operator: Caller, merchant: Caller
) -> None:
    payment = dead_payment(merchant)
    job = create(operator, max_per_second=1)
    assert run_job_step(UUID(job["id"])) is True
    message = DeadMessage(f"again-{payment}", SETTLE, "rejected", None, "[]", {}, utc_now(), (UUID(payment),))
    execute("UPDATE transactions SET status = 'processing', attempt_limit = 4 WHERE id = :id", id=payment)
    with begin() as connection:
        intake.store(connection, [message])
    assert count("dead_letters", "status = 'open'") == 1

    make_due()
    assert run_job_step(UUID(job["id"])) is False

    done = read(operator, job)
    assert (done["status"], done["done"]) == ("completed", 1)
    assert count("dead_letters", "status = 'open'") == 1


def test_a_dead_letter_that_cannot_be_replayed_stays_open_and_is_counted(operator: Caller, merchant: Caller) -> None:
    letter_without_transaction()
    dead_payment(merchant)

    job = create(operator)
    run_to_its_end(job)

    done = read(operator, job)
    assert (done["count"], done["done"], done["failed"], done["status"]) == (2, 1, 1, "completed")
    assert count("dead_letters", "status = 'open' AND transaction_id IS NULL") == 1
    discarding = create(operator, action="discard")
    run_to_its_end(discarding)
    assert count("dead_letters", "status = 'open'") == 0


def test_a_dead_letter_that_was_resolved_meanwhile_is_skipped(operator: Caller, merchant: Caller) -> None:
    for _ in range(2):
        dead_payment(merchant)
    job = create(operator)
    operator.post(f"/v1/dead-letters/{listed(operator)[0]['id']}/discard", {})

    run_to_its_end(job)

    done = read(operator, job)
    assert (done["done"], done["failed"], done["skipped"]) == (1, 0, 1)


def test_a_canceled_job_takes_no_more_steps(operator: Caller, merchant: Caller) -> None:
    for _ in range(2):
        dead_payment(merchant)
    job = create(operator, max_per_second=1)
    run_job_step(UUID(job["id"]))

    response = operator.post(f"{BULK}/{job['id']}/cancel")

    assert (response.status_code, response.json["status"], response.json["done"]) == (200, "canceled", 1)
    make_due()
    assert run_job_step(UUID(job["id"])) is False
    assert count("dead_letters", "status = 'open'") == 1
    assert count("audit_log", "action = 'dead_letter_job.canceled'") == 1
    expect_problem(operator.post(f"{BULK}/{job['id']}/cancel"), 409, "invalid_state")


def test_a_step_that_is_not_due_does_nothing(operator: Caller, merchant: Caller) -> None:
    for _ in range(3):
        dead_payment(merchant)
    job = create(operator, max_per_second=1)

    assert [run_job_step(UUID(job["id"])) for _ in range(5)] == [True] * 5

    assert read(operator, job)["done"] == 1


def test_concurrent_workers_resolve_each_dead_letter_once(operator: Caller, merchant: Caller) -> None:
    for _ in range(6):
        dead_payment(merchant)
    job = create(operator, max_per_second=3)
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(run_job_step, [UUID(job["id"])] * 4))
    assert read(operator, job)["done"] == 3
    make_due()

    run_to_its_end(job)

    assert read(operator, job)["done"] == 6
    assert count("audit_log", "action = 'dead_letter.replayed'") == 6


def test_a_job_whose_message_was_lost_is_enqueued_again(operator: Caller, merchant: Caller) -> None:
    for _ in range(2):
        dead_payment(merchant)
    job = create(operator, max_per_second=1)
    run_job_step(UUID(job["id"]))
    execute("DELETE FROM outbox")
    assert upkeep.requeue_operator_work() == 0
    execute("UPDATE dead_letter_jobs SET next_step_at = now() - interval '61 seconds'")

    assert upkeep.requeue_operator_work() == 1
    assert upkeep.requeue_operator_work() == 0

    assert count("outbox", f"topic = 'dead_letter_job.due' AND subject_id = '{job['id']}'") == 1
    run_to_its_end(job)
    assert read(operator, job)["done"] == 2


def test_jobs_are_listed_in_pages(operator: Caller) -> None:
    made = [create(operator, dry_run=True)["id"] for _ in range(3)]

    first = operator.get(f"{BULK}?limit=2")
    second = operator.get(f"{BULK}?limit=2&cursor={first.json['next_cursor']}")

    page_of(DeadLetterJob).model_validate_json(first.data)
    assert [job["id"] for job in first.json["data"] + second.json["data"]] == made[::-1]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"action": "retry"}, "/action"),
        ({"filter": None}, "/filter"),
        ({"filter": {"status": "replayed"}}, "/filter/status"),
        ({"filter": {"merchant_id": "1"}}, "/filter/merchant_id"),
        ({"filter": {"dead_lettered_from": "now"}}, "/filter/dead_lettered_from"),
        ({"filter": {"color": "red"}}, "/filter/color"),
        ({"max_per_second": 0}, "/max_per_second"),
        ({"max_per_second": 1001}, "/max_per_second"),
        ({"dry_run": "yes"}, "/dry_run"),
        ({"note": "n" * 501}, "/note"),
    ],
)
def test_an_invalid_job_is_rejected(operator: Caller, fields: dict[str, Any], pointer: str) -> None:
    response = operator.post(BULK, {"action": "replay", "filter": {}, **fields})

    assert response.status_code == 422, response.text
    assert list(field_errors(response)) == [pointer]
    assert count("dead_letter_jobs") == 0


def test_the_number_of_running_jobs_is_limited(
    operator: Caller, merchant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_jobs, "JOBS_RUNNING_MAX", 2)
    dead_payment(merchant)
    first, _ = create(operator), create(operator)

    expect_problem(operator.post(BULK, {"action": "replay", "filter": {}}), 409, "too_many_jobs")
    assert create(operator, dry_run=True)["count"] == 1
    assert operator.post(f"{BULK}/{first['id']}/cancel").status_code == 200
    create(operator)
    assert count("outbox", "topic = 'dead_letter_job.due'") == 3
