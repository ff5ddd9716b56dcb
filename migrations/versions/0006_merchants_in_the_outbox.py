"""Add the merchant to outbox rows and a weight to merchants, for fairness among merchants in the relay"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("outbox", sa.Column("merchant_id", sa.UUID(), nullable=True))
    op.create_index(op.f("ix_outbox_merchant_id_id"), "outbox", ["merchant_id", "id"])
    op.add_column("merchants", sa.Column("weight", sa.Integer(), server_default="1", nullable=False))
    op.create_check_constraint(op.f("ck_merchants_weight"), "merchants", "weight BETWEEN 1 AND 100")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_merchants_weight"), "merchants")
    op.drop_column("merchants", "weight")
    op.drop_index(op.f("ix_outbox_merchant_id_id"), "outbox")
    op.drop_column("outbox", "merchant_id")
