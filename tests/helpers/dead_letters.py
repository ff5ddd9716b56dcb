"""Dead messages of payments, and their dead letters."""

from uuid import UUID

from sqlalchemy import text

from gateway.db import begin
from gateway.domain.dead_letters import intake
from gateway.domain.dead_letters.intake import DeadMessage, Stored
from gateway.flows.settlement import settle
from gateway.ids import utc_now
from tests.helpers.factories import make_merchant, route_payments


def dead_message(*ids: UUID, key: str = "task-1", reason: str = "rejected") -> DeadMessage:
    """Return a message of the dead-letter queue of settlements."""
    return DeadMessage(key, "settlement.requested", reason, "payments.settle", "[]", {}, utc_now(), ids)


def store(*messages: DeadMessage) -> Stored:
    """Store dead messages in one commit."""
    with begin() as connection:
        return intake.store(connection, messages)


def exhausted_payment() -> UUID:
    """Return a payment without further attempts."""
    [id] = route_payments(make_merchant(), "tok_error_always")
    for _ in range(4):
        settle([id], "task-1")
    return id


def open_letters() -> list[UUID]:
    """Return the ids of all open dead letters."""
    with begin() as connection:
        return list(connection.scalars(text("SELECT id FROM dead_letters WHERE status = 'open'")))


def open_letter() -> tuple[UUID, UUID]:
    """Return a dead-lettered payment and its dead letter."""
    id = exhausted_payment()
    store(dead_message(id))
    [letter_id] = open_letters()
    return id, letter_id
