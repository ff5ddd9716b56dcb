"""The required settings of PostgreSQL sessions, for direct connections and through a pooler.

A direct connection sets them at its start. A pooler in transaction mode (PgBouncer) assigns any of its sessions for one
transaction and does not pass settings on: there they are defaults of the role, which
`flask database set-session-defaults` stores. Each new connection is checked and rejected if settings are missing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from loguru import logger

from gateway.answer_timeouts import answer_timeouts
from gateway.config import settings
from gateway.config.groups import DATABASE_TIMEOUT_SECONDS_MAX

LOCK_TIMEOUT_MS = 1_000
SET_DEFAULTS = "flask database set-session-defaults"
_USE_BOTH = (
    "Set DATABASE_DIRECT_URL to PostgreSQL itself, run it in transaction mode, and set the session defaults with "
    f"`{SET_DEFAULTS}` (docs/deployment-pgbouncer.md)."
)
_REFUSED_OPTIONS = "unsupported startup parameter"
"""The error of PgBouncer for the startup parameter `options`."""
_CHECK = """
    SELECT lower(name) AS name, setting FROM pg_settings WHERE lower(name) = ANY (%s)
    UNION ALL SELECT 'pid', CAST(pg_backend_pid() AS text)
"""
_READ_ONLY = "transaction_read_only"
_TIMEOUTS = frozenset({"statement_timeout", "idle_in_transaction_session_timeout"})


class UnsuitableSession(psycopg.OperationalError):
    """A connection cannot be used because of the configuration of server or pooler. The text says what to do."""


class ReadOnlyServer(psycopg.OperationalError):
    """A pooler connects to a server that accepts no writes."""


def required_settings() -> dict[str, str]:
    """Return the required settings of every session, in the units of pg_settings."""
    timeout = str(1000 * settings().database_timeout_seconds)
    return {
        "timezone": "UTC",
        "statement_timeout": timeout,
        "lock_timeout": str(LOCK_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": timeout,
        "jit": "off",  # JIT compilation costs more time than it saves
        # Plans are cached, including those of foreign key checks: a plan that was made for an empty table would scan it
        # sequentially until the next autovacuum. See db.allow_seq_scans.
        "enable_seqscan": "off",
    }


def connect(parameters: Mapping[str, Any], values: Mapping[str, str] | None = None) -> psycopg.Connection[Any]:
    """Connect directly to PostgreSQL, of several hosts to the primary, with these or the `required_settings`.

    Raises:
        UnsuitableSession: a pooler answers.
        psycopg.OperationalError: no server answers, or none that accepts writes.
    """
    values = values or required_settings()
    options = {
        "options": " ".join(f"-c {name}={value}" for name, value in values.items()),
        "target_session_attrs": "read-write",  # after a failover the former primary is a standby
    }
    try:
        connection = psycopg.connect(**{**parameters, **options})
    except psycopg.OperationalError as exc:
        if _REFUSED_OPTIONS in str(exc):
            refused = _REFUSED_OPTIONS + str(exc).rpartition(_REFUSED_OPTIONS)[2].partition("\n")[0]
            raise UnsuitableSession(
                f"a connection pooler answers, and refuses settings ({refused}). {_USE_BOTH}"
            ) from exc
        raise
    with _closed_on_error(connection):
        found = _current_settings(connection, values)
        if int(found["pid"]) != connection.info.backend_pid:
            raise UnsuitableSession(f"a connection pooler answers, where PostgreSQL itself is needed. {_USE_BOTH}")
        wrong = [name for name in values if found.get(name) != values[name]]
        if wrong:
            raise UnsuitableSession(
                f"the server did not take the settings of a session ({_listed(wrong, found, values)})"
            )
    return connection


def connect_by_pooler(parameters: Mapping[str, Any]) -> psycopg.Connection[Any]:
    """Connect to a pooler, without settings and without prepared statements.

    Of several hosts, connect to the first whose server accepts writes. libpq would trust the pooler's report of that,
    which is outdated after a failover (https://github.com/pgbouncer/pgbouncer/issues/859).

    Raises:
        UnsuitableSession: the pooler's sessions lack their settings.
        ReadOnlyServer: the server accepts no writes.
        psycopg.OperationalError: no pooler answers.
    """
    *others, last = _parameters_per_host(parameters)
    failures = []
    for host in others:
        try:
            return _connect_through_pooler(host)
        except psycopg.OperationalError as exc:
            failures.append(str(exc))
    try:
        return _connect_through_pooler(last)
    except psycopg.OperationalError as exc:
        if not failures:
            raise
        raise type(exc)("\n".join([*failures, str(exc)])) from exc


def _parameters_per_host(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the connection parameters per host, in order."""
    hosts = str(parameters.get("host") or "").split(",")
    ports = str(parameters.get("port") or "").split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    own = {name: value for name, value in parameters.items() if name not in {"host", "port", "options"}}
    return [
        own
        | ({"host": host} if host else {})
        | ({"port": port} if port else {})
        | {"target_session_attrs": "any", "prepare_threshold": None}
        for host, port in zip(hosts, ports, strict=True)
    ]


def _connect_through_pooler(parameters: Mapping[str, Any]) -> psycopg.Connection[Any]:
    connection = psycopg.connect(**parameters)
    values = required_settings()
    with _closed_on_error(connection):
        found = _current_settings(connection, values)
        if found[_READ_ONLY] == "on":
            raise ReadOnlyServer(f"the server behind {connection.info.host}:{connection.info.port} is read-only")
        wrong = [name for name in values if not _is_acceptable(name, found.get(name), values[name])]
        if wrong:
            raise UnsuitableSession(
                f"the pooler's sessions lack their settings ({_listed(wrong, found, values)}). Run `{SET_DEFAULTS}`, "
                "then RECONNECT in the pooler's console, to close its old sessions (docs/deployment-pgbouncer.md)."
            )
        other = [name for name in values if found[name] != values[name]]
        if other:
            _warn(_listed(other, found, values))
    return connection


def _is_acceptable(name: str, found: str | None, value: str) -> bool:
    """Return whether a setting of a pooler's session is acceptable; timeouts may differ during a rolling change."""
    if name in _TIMEOUTS and found is not None:
        return 0 < int(found) <= 1000 * DATABASE_TIMEOUT_SECONDS_MAX
    return found == value


@cache
def _warn(differences: str) -> None:
    """Log a warning, once per process and difference."""
    logger.warning("the pooler's sessions do not follow DATABASE_TIMEOUT_SECONDS ({}): `{}`", differences, SET_DEFAULTS)


def _listed(names: list[str], found: Mapping[str, str], values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} is {found.get(name, 'unknown')}, not {values[name]}" for name in names)


def _current_settings(connection: psycopg.Connection[Any], values: Mapping[str, str]) -> dict[str, str]:
    """Return a new session's settings for the names of `values`, whether it is read-only, and its pid."""
    connection.autocommit = True
    with answer_timeouts.limit(connection, settings().database_timeout_seconds):
        found = dict(connection.execute(_CHECK, ([*values, _READ_ONLY],)).fetchall())
    connection.autocommit = False
    return found


@contextmanager
def _closed_on_error(connection: psycopg.Connection[Any]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
