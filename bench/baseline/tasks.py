"""The tasks of the plain pipeline: one transaction per message."""

import os
import uuid
from datetime import datetime

import requests
from celery import Celery, chain
from kombu import Exchange, Queue
from sqlalchemy.orm import Session as OrmSession

from bench.baseline.models import Attempt, LedgerEntry, Session, Settlement, Transaction, engine, now

FEE_BASIS_POINTS = 290
PROVIDER_URL = os.environ.get("BASELINE_PROVIDER_URL")
"""URL of an acquirer; without it the provider is simulated."""

app = Celery("baseline", broker=os.environ["BASELINE_BROKER_URL"])
app.conf.update(
    task_queues=[
        Queue(name, Exchange("baseline", "topic"), routing_key=name, queue_arguments={"x-queue-type": "quorum"})
        for name in ("route", "settle")
    ],
    task_routes={"baseline.route": {"queue": "route"}, "baseline.settle": {"queue": "settle"}},
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
)
os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))
_http = requests.Session()


@app.task(name="baseline.route")
def route(transaction_id: str) -> str | None:
    """Choose a provider."""
    with Session.begin() as session:
        transaction = session.get_one(Transaction, uuid.UUID(transaction_id), with_for_update=True)
        if transaction.status != "pending":
            return transaction_id
        transaction.provider = "acquirer" if PROVIDER_URL else "simulated"
        transaction.status = "processing"
    return transaction_id


@app.task(name="baseline.settle", autoretry_for=(requests.RequestException,), max_retries=3, retry_backoff=True)
def settle(transaction_id: str) -> None:
    """Charge, and record the settlement with its ledger entries."""
    with Session.begin() as session:
        transaction = session.get_one(Transaction, uuid.UUID(transaction_id), with_for_update=True)
        if transaction.status != "processing":
            return
        started_at = now()
        _record(session, transaction, _charge(transaction), started_at)


def _record(session: OrmSession, transaction: Transaction, reference: str, started_at: datetime) -> None:
    amount = transaction.amount
    fee = (amount * FEE_BASIS_POINTS + 5_000) // 10_000
    settlement = Settlement(
        transaction_id=transaction.id,
        amount=amount,
        fee=fee,
        net=amount - fee,
        currency=transaction.currency,
        provider_reference=reference,
    )
    sides = (
        ("provider_clearing", "debit", amount),
        ("merchant_payable", "credit", amount - fee),
        ("fees", "credit", fee),
    )
    settlement.entries = [
        LedgerEntry(account=account, direction=direction, amount=part, currency=transaction.currency)
        for account, direction, part in sides
    ]
    attempt = Attempt(transaction_id=transaction.id, outcome="approved", started_at=started_at)
    session.add_all([settlement, attempt])
    transaction.status = "completed"


def _charge(transaction: Transaction) -> str:
    """Charge the payment; return the provider's reference."""
    if not PROVIDER_URL:
        return f"sim_{transaction.id.hex}"
    body = {
        "idempotency_key": str(transaction.id),
        "amount": transaction.amount,
        "currency": transaction.currency,
        "payment_method": transaction.payment_method,
    }
    response = _http.post(f"{PROVIDER_URL}/charges", json=body, timeout=10)
    response.raise_for_status()
    return str(response.json()["id"])


def pay(transaction_id: str) -> None:
    """Publish the tasks of a committed transaction."""
    chain(route.s(transaction_id), settle.s()).apply_async()
