"""What a downgrade must not throw away."""

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op


def refuse_to_lose(*tables: str, rows: Mapping[str, str] | None = None) -> None:
    """Refuse the downgrade while a table that it drops has rows; nothing is written until it has ended.

    Args:
        tables: tables that are dropped.
        rows: by table, a condition for rows that are deleted or lose what they say.

    Raises:
        RuntimeError: there are such rows; it names them.
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
        raise RuntimeError(
            f"This downgrade would throw rows away that cannot be made again: {', '.join(lost)}. Nothing was changed by"
            " it. To return to the older version, restore the backup that was made before the upgrade. To do without"
            " these rows, export and delete them first, or make a new database."
        )
