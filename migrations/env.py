"""Run migrations on the database of the settings, or on the connection that a caller passes in `attributes`."""

from typing import Any

import psycopg
from alembic import context
from alembic.util import CommandError
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from gateway import database_sessions
from gateway.config import settings
from gateway.models import all_tables
from gateway.reasons import reason_of

LOCK_TIMEOUT = "5s"  # a migration that cannot get its lock fails; otherwise all payments would wait behind it
NO_LIMITS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "enable_seqscan": "on",
}
"""Overrides the session defaults of the role (gateway.database_sessions), which do not suit migrations."""
ADVISORY_LOCK = 7_205_001  # concurrent deployments migrate one after the other


def _migrate(connection: Connection) -> None:
    # One transaction for all steps: if one step of a downgrade is refused, nothing is changed.
    context.configure(connection=connection, target_metadata=all_tables(), transaction_per_migration=False)
    with context.begin_transaction():
        context.run_migrations()


def _connect(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> psycopg.Connection[Any]:
    # Not through a pooler, whose session would keep the advisory lock.
    return database_sessions.connect(parameters, NO_LIMITS)


def _run() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        _migrate(given)
        return
    engine = create_engine(settings().database_direct_url or settings().database_url, poolclass=NullPool)
    event.listen(engine, "do_connect", _connect)
    try:
        connected = engine.connect()
    except OperationalError as exc:
        raise CommandError(reason_of(exc)) from exc
    with connected as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({ADVISORY_LOCK})")
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        connection.commit()
        try:
            _migrate(connection)
        except ProgrammingError as exc:
            if not isinstance(exc.orig, InsufficientPrivilege):
                raise
            raise CommandError(
                f"{reason_of(exc)}. Migrations need the DATABASE_URL of the tables' owner; in the development stack,"
                " that is DATABASE_OWNER_URL of DEV_DIR/env."
            ) from exc
        connection.commit()


_run()
