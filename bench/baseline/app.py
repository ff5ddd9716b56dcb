"""The API of the plain pipeline."""

import os
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from flask import Flask, request
from flask_jwt_extended import JWTManager, create_access_token, get_jwt_identity, jwt_required
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from bench.baseline.models import Base, Session, Transaction, engine
from bench.baseline.tasks import pay

app = Flask(__name__)
_keys = Path(os.environ["BASELINE_KEYS"])
app.config.update(
    JWT_ALGORITHM="RS256",
    JWT_PRIVATE_KEY=(_keys / "private.pem").read_text(),
    JWT_PUBLIC_KEY=(_keys / "public.pem").read_text(),
    JWT_ACCESS_TOKEN_EXPIRES=timedelta(hours=12),
)
JWTManager(app)


class Payment(BaseModel):
    """The body of a request."""

    amount: int = Field(gt=0)
    currency: str = Field(pattern="^[A-Z]{3}$")
    payment_method: str = Field(default="tok_approve", max_length=255)
    reference: str | None = Field(default=None, max_length=255)


def _shown(transaction: Transaction) -> dict[str, Any]:
    return {
        "id": str(transaction.id),
        "amount": transaction.amount,
        "currency": transaction.currency,
        "status": transaction.status,
        "payment_method": transaction.payment_method,
        "reference": transaction.reference,
        "created_at": transaction.created_at.isoformat(),
    }


@app.post("/v1/transactions")
@jwt_required()  # type: ignore[untyped-decorator]  # the library has no types
def create_transaction() -> tuple[dict[str, Any], int]:
    """Store a payment, then publish it."""
    try:
        payment = Payment.model_validate_json(request.get_data())
    except ValidationError as error:
        return {"errors": error.errors(include_context=False)}, 422
    merchant_id, key = uuid.UUID(get_jwt_identity()), request.headers.get("Idempotency-Key")
    with Session(expire_on_commit=False) as session:
        transaction = Transaction(merchant_id=merchant_id, idempotency_key=key, **payment.model_dump())
        session.add(transaction)
        try:
            session.commit()
        except IntegrityError:
            session.rollback()
            same = Transaction.merchant_id == merchant_id, Transaction.idempotency_key == key
            return _shown(session.scalars(select(Transaction).where(*same)).one()), 201
    pay(str(transaction.id))
    return _shown(transaction), 201


@app.get("/health/ready")
def ready() -> dict[str, str]:
    """Report that the API is up."""
    return {"status": "ok"}


@app.cli.command("prepare")
def prepare() -> None:
    """Create the tables, and print an access token of a merchant."""
    Base.metadata.create_all(engine)
    click.echo(create_access_token(str(uuid.uuid4())))
