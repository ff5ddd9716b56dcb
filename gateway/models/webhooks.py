"""Events, webhook endpoints, and deliveries."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import LargeBinary, Text

from gateway.models.base import Base, CreatedAt, Id, Json, one_of
from gateway.states import DeliveryStatus, EndpointStatus, EventType

LEASE_SECONDS = 60
"""The lease of a claimed delivery, which is much longer than a call and its recording may take."""


class Event(Base):
    """A change of an object of a merchant, written in the commit of the change.

    The object is not copied: `snapshot` holds only those members that may change after the event. The key begins with
    the merchant, which every query knows, so one index serves reading and listing.
    """

    __tablename__ = "events"
    __table_args__ = (one_of("type", EventType),)

    merchant_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    object_id: Mapped[UUID]
    snapshot: Mapped[Json | None] = mapped_column(JSONB)
    created_at: Mapped[datetime]


class WebhookBody(Base):
    """The bytes that every delivery of an event sends, stored before the first attempt.

    It is a separate table because events are kept forever, and bodies only as long as their deliveries.
    """

    __tablename__ = "webhook_bodies"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    transaction_id: Mapped[UUID]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[CreatedAt]


class WebhookEndpoint(Base):
    """A URL to which a merchant's events are sent. Its secrets sign, so they are encrypted, not hashed.

    `consecutive_failures` counts the failed deliveries since the last success.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        one_of("status", EndpointStatus),
        CheckConstraint("(status = 'disabled') = (disabled_reason IS NOT NULL)", name="disabled"),
        CheckConstraint("consecutive_failures >= 0", name="consecutive_failures"),
        Index(None, "merchant_id", "id"),
    )

    id: Mapped[Id]
    merchant_id: Mapped[UUID] = mapped_column(ForeignKey("merchants.id"))
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    status: Mapped[str] = mapped_column(server_default=EndpointStatus.ENABLED.value)
    disabled_reason: Mapped[str | None]
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    previous_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_secret_until: Mapped[datetime | None]
    consecutive_failures: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
    deleted_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """The delivery of one event to one endpoint. `next_attempt_at` is also the lease of the current attempt."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        one_of("status", DeliveryStatus),
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("(status = 'pending') = (next_attempt_at IS NOT NULL)", name="scheduled"),
        Index(None, "endpoint_id", "id"),
        Index(None, "transaction_id"),
        Index(
            "ix_webhook_deliveries_due", "endpoint_id", "next_attempt_at", postgresql_where=text("status = 'pending'")
        ),
    )

    id: Mapped[Id]
    merchant_id: Mapped[UUID]
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoints.id"))
    event_id: Mapped[UUID]
    event_type: Mapped[str]
    transaction_id: Mapped[UUID]
    status: Mapped[str] = mapped_column(server_default=DeliveryStatus.PENDING.value)
    attempts: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime | None]
    last_attempt_at: Mapped[datetime | None]
    response_status: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
