"""Jobs of operators on the running stack: bulk replays, reconciliations, statements."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg

from tests.end_to_end.client import Client
from tests.end_to_end.conftest import Processes
from tests.helpers.waiting import eventually

Truth = psycopg.Connection[dict[str, Any]]
PAYMENTS = 6


def post(operator: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = operator.call("POST", path, json=body)
    assert response.status_code == 202, response.text
    made: dict[str, Any] = response.json()
    return made


def ended(operator: Client, path: str) -> dict[str, Any]:
    """Wait for the end of the job or the run at `path`; return it."""

    def read() -> dict[str, Any] | None:
        found = operator.get(path)
        return found if found["status"] in {"completed", "failed", "canceled"} else None

    return eventually(read, within=60, what=f"the end of {path}") or {}


def test_a_bulk_replay_continues_after_its_worker_was_killed_and_settles_each_payment_once(
    merchant: Client, operator: Client, truth: Truth, processes: Processes
) -> None:
    ids = [merchant.pay("tok_error_always")["id"] for _ in range(PAYMENTS)]
    for id in ids:
        eventually(lambda id=id: merchant.transaction(id)["status"] == "dead_lettered", within=90)  # type: ignore[misc]
    truth.execute("UPDATE transactions SET payment_method = 'tok_approve' WHERE id = ANY(%s::uuid[])", [ids])
    own = {"merchant_id": merchant.transaction(ids[0])["merchant_id"]}

    dry = post(operator, "/v1/dead-letters/bulk", {"action": "replay", "filter": own, "dry_run": True})
    assert (dry["count"], dry["status"]) == (PAYMENTS, "completed")
    order = {"action": "replay", "filter": own, "max_per_second": 1}
    job = f"/v1/dead-letters/bulk/{post(operator, '/v1/dead-letters/bulk', order)['id']}"
    eventually(lambda: operator.get(job)["done"] >= 1, within=30, what="the first step")
    with processes.down("worker-operations"):
        stopped_at = operator.get(job)["done"]
        assert 1 <= stopped_at < PAYMENTS

    done = ended(operator, job)
    assert (done["status"], done["done"], done["failed"]) == ("completed", PAYMENTS, 0)
    for id in ids:
        eventually(lambda id=id: merchant.transaction(id)["status"] == "completed", within=60)  # type: ignore[misc]
    query = "SELECT count(*) AS settled FROM settlements WHERE transaction_id = ANY(%s::uuid[])"
    assert (truth.execute(query, [ids]).fetchone() or {})["settled"] == PAYMENTS
    for letter in operator.get("/v1/dead-letters", **own)["data"]:
        entries = operator.get("/v1/audit-log", subject=letter["id"])["data"]
        assert [entry["action"] for entry in entries] == ["dead_letter.replayed"]


def test_a_statement_is_compared_and_an_unsettled_charge_is_in_the_report(merchant: Client, operator: Client) -> None:
    paid = merchant.pay()["id"]
    eventually(lambda: merchant.transaction(paid)["status"] == "completed", within=60)
    declined = merchant.pay("tok_decline_fraud")["id"]
    eventually(lambda: merchant.transaction(declined)["status"] == "failed", within=60)
    now = datetime.now(UTC)
    lines = [
        (merchant.transaction(paid)["provider_reference"], paid, "charge", "12550", "226", "USD", now.isoformat()),
        (f"ch_{uuid4().hex}", declined, "charge", "12550", "226", "USD", now.isoformat()),
    ]
    text = io.StringIO()
    rows = [("charge_id", "idempotency_key", "type", "amount", "fee", "currency", "time"), *lines]
    csv.writer(text).writerows(rows)
    period = {"from": now.isoformat(), "to": (now + timedelta(microseconds=1)).isoformat()}

    response = operator.call(
        "POST",
        "/v1/statements",
        params={"provider": "simulated", **period},
        data=text.getvalue(),
        headers={"Content-Type": "text/csv"},
    )
    assert response.status_code == 201, response.text
    run = ended(operator, f"/v1/reconciliations/{response.json()['reconciliation_id']}")

    assert (run["status"], run["counts"]["statement_lines"]) == ("completed", 2)
    report = operator.call("GET", f"/v1/reconciliations/{run['id']}/report.csv")
    assert report.headers["Content-Type"] == "text/csv; charset=utf-8"
    [found] = csv.DictReader(io.StringIO(report.text))
    assert (found["kind"], found["transaction_id"]) == ("charged_not_settled", declined)
    resolved = operator.call(
        "POST",
        f"/v1/discrepancies/{found['id']}/resolve",
        json={"resolution": "corrected", "note": "Refunded by hand."},
    )
    assert resolved.json()["status"] == "resolved"


def test_a_reconciliation_that_an_operator_requests_finds_nothing(merchant: Client, operator: Client) -> None:
    began = datetime.now(UTC)
    ids = [merchant.pay()["id"] for _ in range(3)]
    for id in ids:
        eventually(lambda id=id: merchant.transaction(id)["status"] == "completed", within=60)  # type: ignore[misc]
    period = {"from": began.isoformat(), "to": datetime.now(UTC).isoformat()}

    made = post(operator, "/v1/reconciliations", {**period, "provider": "simulated"})
    run = ended(operator, f"/v1/reconciliations/{made['id']}")

    assert run["status"] == "completed"
    assert run["counts"]["transactions"] == run["counts"]["settlements"] >= 3
    assert operator.get(f"/v1/reconciliations/{made['id']}/discrepancies")["data"] == []
