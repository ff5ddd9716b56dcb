"""Request reconciliations by the API, and read what they found."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from gateway.api.http.schemas import page_of
from gateway.api.resources.discrepancies import Discrepancy
from gateway.api.resources.reconciliations import Reconciliation
from gateway.flows.reconciliation import reconcile_as_requested
from gateway.ids import rfc3339, utc_now
from tests.api.conftest import Caller
from tests.helpers.discrepancies import settled_payment
from tests.helpers.factories import execute

RUNS = "/v1/reconciliations"
FOUND = "/v1/discrepancies"


def ask(operator: Caller, **fields: Any) -> dict[str, Any]:
    """Request a reconciliation of the last day; return it."""
    now = utc_now()
    period = {"from": rfc3339(now - timedelta(days=1)), "to": rfc3339(now + timedelta(minutes=1))}
    response = operator.post(RUNS, period | fields)
    assert response.status_code == 202, response.text
    Reconciliation.model_validate_json(response.data)
    run: dict[str, Any] = response.json
    assert response.headers["Location"] == f"{RUNS}/{run['id']}"
    return run


def carried_out(operator: Caller, **fields: Any) -> dict[str, Any]:
    """Request a reconciliation, and run it; return it."""
    run = ask(operator, **fields)
    reconcile_as_requested(UUID(run["id"]))
    response = operator.get(f"{RUNS}/{run['id']}")
    Reconciliation.model_validate_json(response.data)
    done: dict[str, Any] = response.json
    return done


def damaged_payment(amount: int = 1005) -> UUID:
    """Create a transaction whose amount differs from its settlement; return its id."""
    payment = settled_payment()
    execute("UPDATE transactions SET amount = :amount WHERE id = :id", id=payment, amount=amount)
    return payment


def found_by(operator: Caller, run: dict[str, Any], query: str = "") -> list[dict[str, Any]]:
    """Return the discrepancies that a reconciliation found."""
    response = operator.get(f"{RUNS}/{run['id']}/discrepancies{query}")
    assert response.status_code == 200, response.text
    page_of(Discrepancy).model_validate_json(response.data)
    data: list[dict[str, Any]] = response.json["data"]
    return data
