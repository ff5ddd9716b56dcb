"""The database engine: timeouts, lost connections, several hosts, and reasons of errors."""

import socket
import time
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError

from gateway import database_sessions, db
from gateway.config import settings
from gateway.ids import new_id
from gateway.reasons import reason_of
from tests.helpers.engines import engine_on
from tests.helpers.factories import end_sessions
from tests.helpers.waiting import eventually

RAISED = "INSERT INTO alerts (id, severity, message, details)"


def test_a_statement_without_an_answer_ends_at_the_answer_timeout_with_its_connection() -> None:
    with pytest.raises(OperationalError) as caught, db.answer_timeout(0.3), db.autocommit() as connection:
        connection.execute(text("SELECT pg_sleep(5)"))
    assert "did not answer within 0.3 s" in str(caught.value)
    assert "pg_sleep" in str(caught.value)
    assert caught.value.connection_invalidated
    with db.autocommit() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_connecting_to_a_silent_server_ends_at_the_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with (
            engine_on(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"),
            pytest.raises(db.UNAVAILABLE),
            db.autocommit() as connection,
        ):
            connection.execute(text("SELECT 1"))
        assert time.monotonic() - began < 2 * db.CONNECT_TIMEOUT_SECONDS + 1


def test_waiting_for_the_database_ends_when_it_is_available_or_at_the_limit() -> None:
    assert db.wait_until_available(5)
    with engine_on("postgresql://nobody@127.0.0.1:9/none"):
        assert not db.wait_until_available(0.1)


def test_the_reason_of_a_failed_connection_names_each_host_without_the_password() -> None:
    with engine_on("postgresql://nobody:hunter2@127.0.0.1:9,127.0.0.1:11/none"):
        with pytest.raises(OperationalError) as failed:
            db.engine().connect()
        reason = reason_of(failed.value)
        assert "port 9 failed: Connection refused" in reason
        assert "port 11 failed: Connection refused" in reason
        assert "hunter2" not in reason
        assert "\n" not in reason


def test_the_reason_of_a_failed_statement_contains_none_of_its_values() -> None:
    statement = text(f"{RAISED} VALUES (:id, 'so so', 'secret', '{{}}')")
    with pytest.raises(IntegrityError) as failed, db.autocommit() as connection:
        connection.execute(statement, {"id": new_id()})
    assert reason_of(failed.value).startswith("CheckViolation: new row for relation")
    assert "secret" not in reason_of(failed.value)


def test_a_reason_is_never_empty() -> None:
    reason = reason_of(OperationalError("SELECT 1", {}, psycopg.OperationalError()))
    assert reason == "OperationalError: An error related to the database's operation."


def test_a_session_with_other_settings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_in_lower_case = {"timezone": "utc"}  # which PostgreSQL spells UTC
    monkeypatch.setattr(database_sessions, "required_settings", lambda: settings_in_lower_case)
    with engine_on(settings().database_url), pytest.raises(db.UNAVAILABLE, match="timezone is UTC, not utc"):
        db.engine().connect()


def test_the_end_of_an_idle_session_counts_as_an_outage() -> None:
    def idle() -> None:
        with db.begin() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 50"))
            query = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
            with db.autocommit() as other:
                eventually(lambda: other.execute(query, {"pid": pid}).scalar_one() == 0, what="the end of the session")
            connection.execute(text("SELECT 1"))

    with pytest.raises(db.UNAVAILABLE):
        idle()


def test_a_read_only_server_counts_as_an_outage() -> None:
    with db.begin() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(db.UNAVAILABLE):
            connection.execute(text("DELETE FROM outbox"))


def test_of_several_hosts_the_available_one_is_used() -> None:
    url = settings().database_url
    userinfo, at, rest = url.rpartition("@")
    with engine_on(f"{userinfo}{at}127.0.0.1:9,{rest}"), db.autocommit() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


@pytest.fixture
def _read_only() -> Iterator[None]:
    """Make new sessions of the test's database read-only, as on a standby."""
    url = settings().database_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET default_transaction_read_only = on")
        yield
        connection.execute(f"ALTER DATABASE {connection.info.dbname} RESET default_transaction_read_only")


@pytest.mark.usefixtures("_read_only")
def test_a_connection_to_a_read_only_server_is_refused() -> None:
    with engine_on(settings().database_url), pytest.raises(db.UNAVAILABLE, match="read-only"):
        db.engine().connect()


def test_idle_connections_whose_sessions_ended_are_replaced_without_an_error() -> None:
    with db.autocommit() as one, db.autocommit() as other:
        pids = [connection.execute(text("SELECT pg_backend_pid()")).scalar_one() for connection in (one, other)]
    end_sessions(pids)
    with db.autocommit() as one, db.autocommit() as other:
        assert [connection.execute(text("SELECT 1")).scalar_one() for connection in (one, other)] == [1, 1]


def test_after_the_loss_of_a_connection_in_use_the_pool_uses_no_older_connection() -> None:
    with db.autocommit() as resting:
        before = resting.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with db.autocommit() as lost:
            end_sessions([lost.execute(text("SELECT pg_backend_pid()")).scalar_one()])
            with pytest.raises(OperationalError) as caught:
                lost.execute(text("SELECT 1"))
    assert caught.value.connection_invalidated
    with db.autocommit() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != before


def test_a_copy_without_an_answer_ends_at_the_answer_timeout() -> None:
    with (
        pytest.raises(OperationalError, match=r"did not answer within 0\.3 s"),
        db.answer_timeout(0.3),
        db.begin() as connection,
        db.driver_connection(connection) as driver,
        driver.cursor() as cursor,
        cursor.copy("COPY (SELECT pg_sleep(5)) TO STDOUT") as copy,
    ):
        copy.read()
    with db.autocommit() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def insert_with_a_slow_commit(connection: Connection) -> None:
    sleep = "'BEGIN PERFORM pg_sleep(5); RETURN NULL; END'"
    for statement in (
        "CREATE TEMP TABLE slow (id int)",
        f"CREATE FUNCTION pg_temp.sleep() RETURNS trigger LANGUAGE plpgsql AS {sleep}",
        """CREATE CONSTRAINT TRIGGER sleep AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION pg_temp.sleep()""",
        "INSERT INTO slow VALUES (1)",
    ):
        connection.exec_driver_sql(statement)


def test_a_commit_without_an_answer_ends_at_the_answer_timeout() -> None:
    with (
        pytest.raises(OperationalError, match="did not answer within 1 s"),
        db.answer_timeout(1),
        db.begin() as connection,
    ):
        insert_with_a_slow_commit(connection)


def test_answers_in_time_do_not_affect_the_connection() -> None:
    with db.answer_timeout(0.3), db.autocommit() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with db.autocommit() as other:
            other.execute(text("SELECT pg_sleep(0.25)"))
            other.execute(text("SELECT pg_sleep(0.25)"))
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() == pid
