"""The connection that is kept beside the pool's."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, OperationalError

from gateway import db
from gateway.flows.kept_connection import KeptConnection
from tests.helpers.factories import end_sessions


@pytest.fixture(name="kept")
def kept_connection() -> Iterator[KeptConnection]:
    with closing(KeptConnection()) as kept:
        yield kept


def pid_of(connection: Connection) -> int:
    return int(db.rows(connection, text("SELECT pg_backend_pid() AS pid"), {})[0].pid)


def test_it_is_one_beside_the_pool_and_whoever_comes_meanwhile_gets_one_of_the_pool(kept: KeptConnection) -> None:
    with kept.autocommit() as first, kept.autocommit() as second:
        pids = [pid_of(first), pid_of(second)]
    assert pids[0] != pids[1]
    with db.autocommit() as pooled:
        assert pid_of(pooled) == pids[1]
    with kept.autocommit() as again:
        assert pid_of(again) == pids[0]


def test_it_is_replaced_without_an_error_when_the_server_ended_its_session(kept: KeptConnection) -> None:
    with kept.autocommit() as connection:
        before = pid_of(connection)
    end_sessions([before])
    with kept.autocommit() as connection:
        assert pid_of(connection) != before


def test_it_is_replaced_after_it_was_lost_in_use(kept: KeptConnection) -> None:
    with kept.autocommit() as connection:
        before = pid_of(connection)
        end_sessions([before])
        with pytest.raises(OperationalError) as caught:
            pid_of(connection)
    assert caught.value.connection_invalidated
    with kept.autocommit() as connection:
        assert pid_of(connection) != before


def test_it_goes_on_after_what_was_wrong_with_a_statement(kept: KeptConnection) -> None:
    with kept.autocommit() as connection:
        before = pid_of(connection)
    with pytest.raises(DataError), kept.autocommit() as connection:
        db.rows(connection, text("SELECT CAST('x' AS int)"), {})
    with kept.autocommit() as connection:
        assert pid_of(connection) == before


def test_it_follows_a_new_engine(kept: KeptConnection) -> None:
    with kept.autocommit() as connection:
        before = pid_of(connection)
    db.engine().dispose()
    db.engine.cache_clear()
    with kept.autocommit() as connection:
        assert pid_of(connection) != before


def test_a_child_process_opens_its_own_and_leaves_its_parents_alone(kept: KeptConnection) -> None:
    with kept.autocommit() as connection:
        before = pid_of(connection)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with kept.autocommit() as connection:
                status = int(pid_of(connection) == before)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with kept.autocommit() as connection:
        assert pid_of(connection) == before
