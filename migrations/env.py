"""Runs migrations against the database of the settings, or on the connection that a caller hands over."""

from alembic import context
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from gateway.config import settings
from gateway.models import all_tables

LOCK_TIMEOUT = "5s"  # a migration that cannot get its lock fails, rather than queueing every payment behind it
ADVISORY_LOCK = 7_205_001  # two deploys at once migrate one after the other


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=all_tables(), transaction_per_migration=True)
    with context.begin_transaction():
        context.get_context()._ensure_version_table()
        context.run_migrations()


def _run() -> None:
    handed_over = context.config.attributes.get("connection")
    if handed_over is not None:
        _migrate(handed_over)
        return
    engine = create_engine(
        settings().database_url,
        poolclass=NullPool,
        connect_args={"target_session_attrs": "read-write"},  # of several hosts, the primary
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({ADVISORY_LOCK})")
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        connection.commit()
        _migrate(connection)
        connection.commit()


_run()
