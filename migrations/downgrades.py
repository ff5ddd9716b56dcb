"""Refuse downgrades that would lose data."""

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError


def refuse_to_lose(*tables: str, rows: Mapping[str, str] | None = None) -> None:
    """Refuse the downgrade if a table that it drops has rows; lock the tables until the downgrade ends.

    Args:
        tables: tables that are dropped.
        rows: by table, a condition for rows that are deleted or lose information.

    Raises:
        CommandError: such rows exist; the message names their tables.
    """
    conditions = dict.fromkeys(tables, "true") | dict(rows or {})
    op.execute(f"LOCK TABLE {', '.join(conditions)} IN ACCESS EXCLUSIVE MODE")
    connection = op.get_bind()
    lost = []
    for table, condition in conditions.items():
        count = connection.execute(sa.text(f"SELECT count(*) FROM {table} WHERE {condition}")).scalar_one()  # noqa: S608
        if count:
            lost.append(f"{table} ({count})")
    if lost:
        raise CommandError(
            f"This downgrade would delete rows that cannot be recreated: {', '.join(lost)}. Nothing was changed."
            " To return to the older version, restore the backup that was made before the upgrade. If you do not need"
            " these rows, export and delete them first, or create a new database."
        )
