"""Merchants, their users and API clients, and revoked tokens."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import LargeBinary, Text

from gateway.models.base import Base, CreatedAt, Id, one_of


class Merchant(Base):
    """A business that accepts payments. `weight` is its relative share of the relay if several have a backlog."""

    __tablename__ = "merchants"
    __table_args__ = (
        CheckConstraint("fee_basis_points BETWEEN 0 AND 10000", name="fee_basis_points"),
        CheckConstraint("weight BETWEEN 1 AND 100", name="weight"),
    )

    id: Mapped[Id]
    business_name: Mapped[str]
    fee_basis_points: Mapped[int]
    weight: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[CreatedAt]


class User(Base):
    """A person who logs in: the owner of a merchant, or an operator of the gateway, who has no merchant."""

    __tablename__ = "users"
    __table_args__ = (
        one_of("role", ("owner", "operator")),
        CheckConstraint("(role = 'operator') = (merchant_id IS NULL)", name="operators_have_no_merchant"),
        CheckConstraint("email = lower(email)", name="email_lower"),
    )

    id: Mapped[Id]
    merchant_id: Mapped[UUID | None] = mapped_column(ForeignKey("merchants.id"))
    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[CreatedAt]


class ApiClient(Base):
    """A program that acts for a merchant. Only the HMAC-SHA256 of its secret is stored."""

    __tablename__ = "api_clients"
    __table_args__ = (
        Index(None, "merchant_id", "id"),
        Index(None, "revoked_at", postgresql_where=text("revoked_at IS NOT NULL")),
    )

    id: Mapped[Id]
    merchant_id: Mapped[UUID] = mapped_column(ForeignKey("merchants.id"))
    client_id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    previous_secret_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_secret_until: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]


class RevokedToken(Base):
    """An access token that was revoked before it expired."""

    __tablename__ = "revoked_tokens"
    __table_args__ = (Index(None, "expires_at"), Index(None, "revoked_at"))

    jti: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
