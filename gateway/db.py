"""The database engine, and the only way to open a database scope.

`begin()` is one database transaction. `autocommit()` is for a single statement that needs no BEGIN and COMMIT
round trips around it: PostgreSQL runs it as a separate transaction. Only api, cli and flows open either.
"""

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DisconnectionError, InterfaceError, InternalError, OperationalError, TimeoutError

from gateway import database_sessions
from gateway.answer_timeouts import LateAnswer, answer_timeouts
from gateway.clock import database_clock
from gateway.config import settings

UNAVAILABLE = (OperationalError, InterfaceError, InternalError, TimeoutError)
"""The errors of a database that is unavailable, refuses a connection or takes too long. A retry may succeed.

InternalError (SQLSTATE class 25) is the error of a session that ended while idle, and of a standby that accepts no
writes.
"""

CONNECT_TIMEOUT_SECONDS = 2
AVAILABILITY_POLL_SECONDS = 0.5
IDLE_CHECK_SECONDS = 2.0
"""A pooled connection that was idle for longer is tested before use. Any other one is tested only if the server has
sent something meanwhile: that it shuts down, or has ended the session."""
IDLE_CHECK_TIMEOUT_SECONDS = 1.0
IDLE_CHECK = "SELECT clock_timestamp()"
"""It also returns the database's time (gateway.clock), so the measurement needs no separate statement."""
ANSWER_MARGIN_SECONDS = 1.0
"""By how much the default answer timeout is longer than PostgreSQL's statement_timeout."""

_answer_timeout: ContextVar[float | None] = ContextVar("answer_timeout", default=None)


@contextmanager
def answer_timeout(seconds: float) -> Iterator[None]:
    """Within the block, wait at most this long for each answer of PostgreSQL; close the connection after that."""
    token = _answer_timeout.set(seconds)
    try:
        yield
    finally:
        _answer_timeout.reset(token)


def _answer_seconds() -> float:
    seconds = _answer_timeout.get()
    return settings().database_timeout_seconds + ANSWER_MARGIN_SECONDS if seconds is None else seconds


@cache
def engine() -> Engine:
    """Return this process's connection pool, created on first use and again after a fork."""
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


def _engine(url: str, connect: Callable[[Mapping[str, Any]], psycopg.Connection[Any]]) -> Engine:
    config = settings()
    pool = create_engine(
        url,
        skip_autocommit_rollback=True,  # there is nothing to roll back
        isolation_level="AUTOCOMMIT",  # for the frequent statements; switching takes a twelfth of a request's time
        hide_parameters=True,  # merchants' data and hashes must not get into the logs with an error's text
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

    @event.listens_for(pool, "do_connect")
    def connected(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> psycopg.Connection[Any]:
        connection = connect(parameters)
        # SQLAlchemy initializes the first connection with statements that have no events; `_test_idle` ends this limit.
        answer_timeouts.start(connection, _answer_seconds())
        return connection

    event.listen(pool, "close", _end_limit)
    event.listen(pool, "checkin", _note_idle)
    event.listen(pool, "checkout", _test_idle)
    event.listen(pool, "before_cursor_execute", _limit_statement)
    event.listen(pool, "after_cursor_execute", _end_statement)
    event.listen(pool, "commit", _limit_end_of_transaction)
    event.listen(pool, "rollback", _limit_end_of_transaction)
    event.listen(pool, "handle_error", _explain_late_answer)
    return pool


def _end_limit(connection: Any, _record: Any) -> None:
    answer_timeouts.stop(connection)


def _note_idle(connection: Any, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()
    if connection is not None:  # it was not invalidated
        answer_timeouts.stop(connection)


def _test_idle(connection: Any, record: Any, _proxy: Any) -> None:
    """Test a connection that was idle with a query; see `IDLE_CHECK_SECONDS`.

    Any connection, even a new one, is also queried when the measurement of the database's time is due.

    Raises:
        DisconnectionError: the session has ended.
        OperationalError: the server hangs, so a new connection would hang too.
    """
    answer_timeouts.stop(connection)
    idle_since = record.info.get("idle_since")
    suspect = idle_since is not None and (
        time.monotonic() - idle_since >= IDLE_CHECK_SECONDS or _has_unread_input(connection)
    )
    if not suspect and not database_clock.is_due():
        return
    try:
        with answer_timeouts.limit(connection, IDLE_CHECK_TIMEOUT_SECONDS):
            measured = database_clock.measure(lambda: connection.execute(IDLE_CHECK).fetchone()[0])
            if suspect and not measured:
                connection.execute(IDLE_CHECK)
    except Exception as exc:
        if idle_since is None or isinstance(exc, LateAnswer):
            raise OperationalError(IDLE_CHECK, {}, exc) from exc  # a new connection would hang too
        raise DisconnectionError from exc  # the pool replaces it and tests the new one


def _has_unread_input(connection: Any) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _limit_statement(_connection: Connection, cursor: Any, *_: Any) -> None:
    answer_timeouts.start(cursor.connection, _answer_seconds())


def _end_statement(_connection: Connection, cursor: Any, *_: Any) -> None:
    answer_timeouts.stop(cursor.connection)


def _limit_end_of_transaction(connection: Connection) -> None:
    """Limit a COMMIT or ROLLBACK; SQLAlchemy has no event after it, so `_note_idle` ends the limit.

    A scope must therefore end with its transaction, as those of this module do.
    """
    if not connection.invalidated:
        driver: Any = connection.connection.dbapi_connection
        answer_timeouts.start(driver, _answer_seconds())


def _explain_late_answer(context: ExceptionContext) -> OperationalError | None:
    """Return the error to raise instead of that of a connection which was shut down because of a late answer."""
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return None
    driver: Any = connection.connection.dbapi_connection
    late = answer_timeouts.stop(driver)
    if late is None:
        return None
    return OperationalError(context.statement, {}, late, hide_parameters=True, connection_invalidated=True)


def measure_time() -> None:
    """Measure the database's time now."""
    database_clock.forget()
    with autocommit():
        pass


def _forget_inherited_connections() -> None:
    for inherited in (engine, direct_engine):
        if inherited.cache_info().currsize:
            inherited().dispose(close=False)  # they belong to the parent
            inherited.cache_clear()


os.register_at_fork(after_in_child=_forget_inherited_connections)


@contextmanager
def begin() -> Iterator[Connection]:
    """Begin a database transaction, commit it when the block ends, and roll it back when the block raises."""
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
    """Open a connection on which each statement commits by itself."""
    with engine().connect() as connection:
        yield connection


@contextmanager
def driver_connection(connection: Connection) -> Iterator[psycopg.Connection[Any]]:
    """Return the driver's connection, for features that SQLAlchemy lacks, such as COPY.

    The answer timeout applies to the whole block.

    Raises:
        OperationalError: the driver's error, as SQLAlchemy raises it.
    """
    driver: Any = connection.connection.driver_connection
    try:
        with answer_timeouts.limit(driver, _answer_seconds()):
            yield driver
    except psycopg.OperationalError as exc:
        if driver.closed:
            connection.invalidate(exc)
        raise OperationalError(None, {}, exc) from exc


@contextmanager
def listening(channel: str) -> Iterator[Callable[[float], None]]:
    """LISTEN on `channel` with a dedicated direct connection; yield a function that waits for a notification.

    The function takes a timeout in seconds. It returns immediately if a notification has arrived since its last call.
    It raises one of `UNAVAILABLE` if the connection is lost.
    """
    connection = direct_engine().connect()
    connection.detach()  # it is not returned to the pool
    driver: Any = connection.connection.dbapi_connection
    with ExitStack() as stack:
        stack.callback(answer_timeouts.stop, driver)  # no `checkin` of a detached connection does it
        stack.enter_context(closing(driver))  # SQLAlchemy does not close a connection that is detached from its pool
        stack.enter_context(connection)
        connection.exec_driver_sql(f"LISTEN {channel}")

        def wait_for_notification(seconds: float) -> None:
            try:
                for _ in driver.notifies(timeout=seconds, stop_after=1):
                    pass
            except psycopg.OperationalError as exc:
                raise OperationalError("LISTEN", {}, exc) from exc

        yield wait_for_notification


def allow_seq_scans(connection: Connection) -> None:
    """Allow sequential scans until this transaction ends, for statements that read much."""
    connection.execute(text("SET LOCAL enable_seqscan = on"))


def wait_until_available(seconds: float) -> bool:
    """Wait until the database answers, for at most `seconds`; return whether it does."""
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
