"""`flask database`: prepare PostgreSQL for the gateway, besides the tables."""

import click
from psycopg.sql import SQL, Identifier, Literal
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import ProgrammingError

from gateway import database_sessions, db
from gateway.cli.support import CommandFailed, reports_errors
from gateway.config import settings
from gateway.reasons import reason_of

ADVISORY_LOCK = 7_205_005
"""Serializes runs of the command: concurrent ALTER ROLE statements for one role fail."""

_STORED_DEFAULTS = text("""
    SELECT d.setconfig FROM pg_db_role_setting d
    JOIN pg_roles r ON r.oid = d.setrole JOIN pg_database b ON b.oid = d.setdatabase
    WHERE r.rolname = :role AND b.datname = current_database()
""")
_OPEN_SESSIONS = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE usename = :role AND datname = current_database() AND pid <> pg_backend_pid()
""")


@click.group("database")
def command() -> None:
    """Prepare PostgreSQL for the gateway."""


@command.command("set-session-defaults")
@reports_errors
def set_session_defaults() -> None:
    """Store the gateway's session settings as defaults of its database role.

    It is needed behind a pooler in transaction mode, which does not pass session settings on. The role is that of
    DATABASE_URL. A role can change its own defaults; to change those of another role, DATABASE_DIRECT_URL must name a
    superuser or a role with CREATEROLE. Run the command again after a change of DATABASE_TIMEOUT_SECONDS. It is
    idempotent.

    Exit status: 1 if the role lacks the permission (the command prints the statements for a superuser), 75 if the
    database is unavailable.
    """
    with db.begin_directly() as connection:
        _set(connection)


def _set(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
    own, database = connection.execute(text("SELECT session_user, current_database()")).one()
    role = make_url(settings().database_url).username or own
    required = database_sessions.required_settings()
    known = dict(entry.split("=", 1) for entry in connection.scalar(_STORED_DEFAULTS, {"role": role}) or ())
    if {name.lower(): value for name, value in known.items()}.items() >= required.items():
        click.echo(f"The sessions of {role} in {database} already have these defaults.")
        return
    statements = [
        SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}")
        .format(Identifier(role), Identifier(database), Identifier(name), Literal(value))
        .as_string(None)
        for name, value in required.items()
    ]
    try:
        for statement in statements:
            connection.exec_driver_sql(statement)
    except ProgrammingError as exc:
        listed = "\n".join(f"{statement};" for statement in statements)
        raise CommandFailed(f"{reason_of(exc)}. As a superuser, run:\n{listed}") from exc
    click.echo(f"The sessions of {role} in {database} now start with these defaults.")
    open_now = connection.scalar(_OPEN_SESSIONS, {"role": role})
    if open_now:
        click.echo(
            f"{open_now} open sessions still have the old defaults. Run RECONNECT {database} in PgBouncer's console."
        )
