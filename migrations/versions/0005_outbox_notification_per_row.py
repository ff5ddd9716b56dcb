"""Notify the relays for each row, not for statements that insert none"""

from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def _notify_for_each(what: str) -> None:
    op.execute("DROP TRIGGER notify_outbox ON outbox")
    op.execute(f"CREATE TRIGGER notify_outbox AFTER INSERT ON outbox FOR EACH {what} EXECUTE FUNCTION notify_outbox()")


def upgrade() -> None:
    _notify_for_each("ROW")


def downgrade() -> None:
    _notify_for_each("STATEMENT")
