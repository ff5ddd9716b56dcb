"""The database engine, and the only way to open a database scope.

`begin()` is one database transaction. `autocommit()` is for a single statement that needs no BEGIN and COMMIT
round trips around it: PostgreSQL runs it as a transaction of its own. Only the edges open either (architecture.md).
"""

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from functools import cache, cached_property
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, Engine, TextClause, create_engine, event, text
from sqlalchemy.exc import DisconnectionError, InterfaceError, InternalError, OperationalError, TimeoutError

from gateway import database_sessions
from gateway.clock import database_clock
from gateway.config import settings

UNAVAILABLE = (OperationalError, InterfaceError, InternalError, TimeoutError)
"""What a statement raises when the database is away, refuses, or takes too long: the same call may succeed later.

An InternalError (SQLSTATE class 25) is what a session ended while idle raises, and a standby that does not write.
"""

CONNECT_TIMEOUT_SECONDS = 2
AVAILABILITY_POLL_SECONDS = 0.5
IDLE_CHECK_SECONDS = 2.0
"""A pooled connection that rested longer is tested before use; of the others, only one whose server has said something
meanwhile: that it shuts down, or has ended the session."""
IDLE_CHECK_PATIENCE_SECONDS = 1.0
IDLE_CHECK = "SELECT clock_timestamp()"
"""It also returns the database's time (gateway.clock), so the measurement needs no separate statement."""
PATIENCE_MARGIN_SECONDS = 1.0
"""PostgreSQL's own statement_timeout comes first; when it does not, the server hangs or the network does."""

ASYNC_COMMIT = "SELECT set_config('synchronous_commit', 'off', true)"
"""In a statement whose commit need not survive a crash of PostgreSQL, because what it did would be done again.

Every commit that waits also writes what came before it, so at most the last 0.6 s are lost
(https://www.postgresql.org/docs/15/wal-async-commit.html). Nothing that a merchant was told, or a provider was asked,
may depend on such a commit.
"""

ONE_EXPECTED = "id BETWEEN '00000000-0000-0000-0000-000000000000' AND 'ffffffff-ffff-ffff-ffff-ffffffffffff'"
"""A condition on a list's UUIDs that excludes none, but makes PostgreSQL expect one row whatever the list's length.

So it looks each row up by an index, in tables of any size, and keeps one plan for all lists. Otherwise it plans anew
for each, which takes longer than the rest, or keeps a plan that suits the small tables of a gateway's first minute.
"""

LISTED = f"""listed AS MATERIALIZED (
    SELECT DISTINCT id FROM unnest(CAST(:ids AS uuid[])) AS l (id) WHERE {ONE_EXPECTED} ORDER BY id
)"""  # noqa: S608  # a constant
"""A CTE of `:ids`, each once, in their order."""

_T = TypeVar("_T")
_patience: ContextVar[float | None] = ContextVar("patience", default=None)


class _Connection(psycopg.Connection[Any]):
    """A connection that does not wait for ever for a server that hangs: libpq has no timeout for that."""

    @cached_property
    def cursor_of_rows(self) -> psycopg.Cursor[Any]:
        """One for all calls of `rows`: to make a cursor takes a quarter of a statement's time in this process."""
        return self.cursor(row_factory=namedtuple_row)

    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        patience = _patience.get()
        limit = settings().database_timeout_seconds + PATIENCE_MARGIN_SECONDS if patience is None else patience
        try:
            return super().wait(gen, interval, limit if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as exc:
            if timeout is not None:  # that of `listening`, where nothing is asked
                raise
            self.pgconn.finish()  # what the server makes of the statement is not known
            raise psycopg.OperationalError(f"PostgreSQL did not answer within {limit:g} s") from exc


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within the block, wait so long for an answer of PostgreSQL before the connection is given up."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


@cache
def engine() -> Engine:
    """This process's connection pool; made on first use and again after a fork."""
    config = settings()
    if config.database_direct_url is not None:
        return _engine(config.database_url, database_sessions.connect_by_pooler)
    return _engine(config.database_url, database_sessions.connect)


@cache
def direct_engine() -> Engine:
    """Return the engine for features that need a session, such as LISTEN, which a pooler in transaction mode lacks."""
    direct = settings().database_direct_url
    return engine() if direct is None else _engine(direct, database_sessions.connect)


def is_pooled() -> bool:
    """Return whether DATABASE_URL is a pooler, so that a long transaction occupies a session that others need."""
    return settings().database_direct_url is not None


def _engine(url: str, connect: Callable[[type[_Connection], Mapping[str, Any]], _Connection]) -> Engine:
    config = settings()
    pool = create_engine(
        url,
        isolation_level="AUTOCOMMIT",  # what the hot paths use; to switch costs a request a twelfth of its time
        hide_parameters=True,  # an error's text must not carry what a merchant sent, nor a hash, into the logs
        pool_size=config.database_pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_SECONDS,
        pool_use_lifo=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": config.log_service_name,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 2,
            "tcp_user_timeout": config.database_timeout_seconds * 1000,
        },
    )

    def connected(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> _Connection:
        return connect(_Connection, parameters)

    event.listen(pool, "do_connect", connected)
    event.listen(pool, "checkin", _note_rest)
    event.listen(pool, "checkout", _test_after_rest)
    return pool


def _note_rest(_connection: Any, record: Any) -> None:
    record.info["rests_since"] = time.monotonic()


def _test_after_rest(connection: Any, record: Any, _proxy: Any) -> None:
    check_after_rest(connection, record.info.get("rests_since"))


def check_after_rest(connection: Any, rests_since: float | None) -> None:
    """Test an idle connection with a query; see `IDLE_CHECK_SECONDS` for when.

    Any connection, even a new one, is also queried when the measurement of the database's time is due.

    Raises:
        DisconnectionError: its session has ended.
        OperationalError: its server hangs, so a new connection would hang too.
    """
    rested = rests_since is not None and (
        time.monotonic() - rests_since >= IDLE_CHECK_SECONDS or _has_unread_input(connection)
    )
    if not rested and not database_clock.is_due():
        return
    began = time.monotonic()
    try:
        with patience(IDLE_CHECK_PATIENCE_SECONDS):
            measured = database_clock.measure(lambda: connection.execute(IDLE_CHECK).fetchone()[0])
            if rested and not measured:
                connection.execute(IDLE_CHECK)
    except Exception as exc:
        if rests_since is None or time.monotonic() - began >= IDLE_CHECK_PATIENCE_SECONDS:
            raise OperationalError(IDLE_CHECK, {}, exc) from exc  # a new connection would hang too
        raise DisconnectionError from exc  # it is replaced, and the new one tried


def measure_time() -> None:
    """Measure the database's time now."""
    database_clock.forget()
    with autocommit():
        pass


def _has_unread_input(connection: Any) -> bool:
    look = select.poll()
    look.register(connection.fileno(), select.POLLIN)
    return bool(look.poll(0))


def _forget_inherited_connections() -> None:
    for inherited in (engine, direct_engine):
        if inherited.cache_info().currsize:
            inherited().dispose(close=False)  # they belong to the parent
            inherited.cache_clear()


os.register_at_fork(after_in_child=_forget_inherited_connections)


@contextmanager
def begin() -> Iterator[Connection]:
    """One database transaction: committed when the block ends, rolled back when it raises."""
    with engine().connect().execution_options(isolation_level="READ COMMITTED") as connection, connection.begin():
        yield connection


@contextmanager
def begin_directly() -> Iterator[Connection]:
    """Begin a transaction like `begin`, but without a pooler."""
    with (
        direct_engine().connect().execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def autocommit() -> Iterator[Connection]:
    """A connection on which each statement commits by itself."""
    with engine().connect() as connection:
        yield connection


def rows(connection: Connection, statement: TextClause, parameters: Mapping[str, Any]) -> list[Any]:
    """Execute `statement` for its rows, as psycopg gives them: for the statements that every payment needs.

    What SQLAlchemy makes of a statement and its result, whatever these are, takes as long as all else that this process
    does for one. It takes part in the transaction of `connection` all the same.

    Raises:
        sqlalchemy.exc.DBAPIError: what `Connection.execute` raises.
    """
    driver: Any = connection.connection.dbapi_connection
    try:
        found: list[Any] = driver.cursor_of_rows.execute(_sql(statement), parameters).fetchall()
    except psycopg.Error as exc:
        connection._handle_dbapi_exception(exc, _sql(statement), None, None, None)  # what `Connection.execute` does
    return found


@cache
def _sql(statement: TextClause) -> str:
    """`statement` in the form of psycopg."""
    return str(statement.compile(dialect=engine().dialect))


@contextmanager
def listening(channel: str) -> Iterator[Callable[[float], None]]:
    """LISTEN on `channel` with a dedicated direct connection; yield a function that waits for a notification.

    The function takes a timeout in seconds. It returns immediately if a notification has arrived since its last call.
    It raises one of `UNAVAILABLE` if the connection is lost.
    """
    connection = direct_engine().connect()
    connection.detach()  # it is not returned to the pool
    driver: Any = connection.connection.dbapi_connection
    with closing(driver), connection:  # SQLAlchemy does not close a connection that is detached from its pool
        connection.exec_driver_sql(f"LISTEN {channel}")

        def wait_for_notification(seconds: float) -> None:
            try:
                for _ in driver.notifies(timeout=seconds, stop_after=1):
                    pass
            except psycopg.OperationalError as exc:
                raise OperationalError("LISTEN", {}, exc) from exc

        yield wait_for_notification


def allow_seq_scans(connection: Connection) -> None:
    """Let PostgreSQL read whole tables if it finds that cheaper, until this transaction ends: for what reads much."""
    connection.execute(text("SET LOCAL enable_seqscan = on"))


def wait_until_available(seconds: float) -> bool:
    """Wait until the database answers, for at most `seconds`; whether it does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with autocommit() as connection:
                connection.exec_driver_sql("SELECT 1")
            return True
        except UNAVAILABLE:
            if time.monotonic() >= deadline:
                return False
            time.sleep(AVAILABILITY_POLL_SECONDS)
