"""Rename tables and columns to the terms that the documentation uses, and add the stored bodies of webhooks

Only the catalog changes: no table is rewritten, and all rows are kept in both directions. The one exception is
webhook_bodies, which a downgrade drops; the older version makes each body anew.

The API, the workers, the relay and beat must be stopped during this migration, because neither version of the code
knows the names of the other. Each lock is held until the migration commits, which takes milliseconds. If a lock is not
granted within the lock_timeout of env.py, the migration fails and changes nothing; it can then be repeated.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TABLE = ("attempts", "charge_attempts")
TABLE_CONSTRAINTS = ("pk_{}", "fk_{}_transaction_id", "ck_{}_number", "ck_{}_outcome", "ck_{}_finished")
COLUMNS = (
    ("events", "state", "snapshot"),
    ("transactions", "amount_refunding", "amount_refund_reserved"),
    ("transactions", "rescues", "requeues"),
    ("transactions", "rescued_at", "requeued_at"),
    ("refunds", "rescues", "requeues"),
    ("refunds", "rescued_at", "requeued_at"),
)
CONSTRAINT = ("ck_transactions_amount_refunding", "ck_transactions_amount_refund_reserved")


def upgrade() -> None:
    _rename_table(*TABLE)
    for table, old, new in COLUMNS:
        op.alter_column(table, old, new_column_name=new)
    _rename_constraint("transactions", *CONSTRAINT)
    op.create_table(
        "webhook_bodies",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("transaction_id", sa.Uuid(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_webhook_bodies")),
    )


def downgrade() -> None:
    op.drop_table("webhook_bodies")
    _rename_constraint("transactions", *reversed(CONSTRAINT))
    for table, old, new in COLUMNS:
        op.alter_column(table, new, new_column_name=old)
    _rename_table(*reversed(TABLE))


def _rename_table(old: str, new: str) -> None:
    op.rename_table(old, new)
    for name in TABLE_CONSTRAINTS:
        _rename_constraint(new, name.format(old), name.format(new))


def _rename_constraint(table: str, old: str, new: str) -> None:
    op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")
