"""`flask database`: prepare PostgreSQL beyond the tables."""

import click
from psycopg.sql import SQL, Identifier, Literal
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from gateway import database_sessions, db
from gateway.config import settings
from gateway.reasons import reason_of

ADVISORY_LOCK = 7_205_005
"""Concurrent ALTER ROLE statements for one role would fail."""

_HAS = text("""
    SELECT d.setconfig FROM pg_db_role_setting d
    JOIN pg_roles r ON r.oid = d.setrole JOIN pg_database b ON b.oid = d.setdatabase
    WHERE r.rolname = :role AND b.datname = current_database()
""")
_OPEN = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE usename = :role AND datname = current_database() AND pid <> pg_backend_pid()
""")


@click.group("database")
def command() -> None:
    """Prepare PostgreSQL for the gateway."""


@command.command("set-session-defaults")
def set_session_defaults() -> None:
    """Store the gateway's session settings as defaults of its role, because a pooler does not pass settings on.

    The role is that of DATABASE_URL. It can change its own defaults, by DATABASE_DIRECT_URL; another role must be a
    superuser or have CREATEROLE. Run the command again when DATABASE_TIMEOUT_SECONDS changes; it is idempotent.

    Exit status: 1 on failure; the command then prints the statements to run as a superuser.
    """
    try:
        with db.begin_directly() as connection:
            _set(connection)
    except SQLAlchemyError as exc:
        raise click.ClickException(f"The session defaults could not be set: {reason_of(exc)}") from exc


def _set(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
    own, database = connection.execute(text("SELECT session_user, current_database()")).one()
    role = make_url(settings().database_url).username or own
    wanted = database_sessions.wanted()
    known = dict(entry.split("=", 1) for entry in connection.scalar(_HAS, {"role": role}) or ())
    if {name.lower(): value for name, value in known.items()}.items() >= wanted.items():
        click.echo(f"The sessions of {role} in {database} already have these defaults.")
        return
    statements = [
        SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}")
        .format(Identifier(role), Identifier(database), Identifier(name), Literal(value))
        .as_string(None)
        for name, value in wanted.items()
    ]
    try:
        for statement in statements:
            connection.exec_driver_sql(statement)
    except ProgrammingError as exc:
        listed = "\n".join(f"{statement};" for statement in statements)
        raise click.ClickException(f"{reason_of(exc)}. As a superuser, run:\n{listed}") from exc
    click.echo(f"The sessions of {role} in {database} now start with these defaults.")
    open_now = connection.scalar(_OPEN, {"role": role})
    if open_now:
        click.echo(f"{open_now} open sessions keep the old defaults: run RECONNECT {database} in PgBouncer's console.")
