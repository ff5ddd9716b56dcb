"""Required settings of PgBouncer's sessions, and the errors when they are missing."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.errors import QueryCanceled
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import OperationalError

from gateway import database_sessions, db
from gateway.app import create_app
from gateway.domain.shared import outbox
from gateway.domain.shared.sql import ASYNC_COMMIT
from gateway.reasons import reason_of
from tests.api.conftest import expect_problem
from tests.helpers.engines import engine_on
from tests.helpers.waiting import eventually
from tests.pooler.conftest import POOL_SIZE, environment
from tests.pooler.pgbouncer import PgBouncer, pgbouncer
from tests.pooler.running import flask, run

BARRIER_SECONDS = 10
SETTINGS = {
    "timezone": "UTC",
    "statement_timeout": "4000",
    "lock_timeout": "1000",
    "idle_in_transaction_session_timeout": "4000",
    "jit": "off",
    "enable_seqscan": "off",
    "synchronous_commit": "on",
}
"""DATABASE_TIMEOUT_SECONDS is 4 in the tests."""
SHOW = text("SELECT lower(name) AS name, setting FROM pg_settings WHERE lower(name) = ANY (:names)")
MIGRATION_LOCK = 7_205_001
PID = text("SELECT pg_backend_pid() AS pid")


@pytest.fixture
def pooled(both: dict[str, str]) -> Iterator[None]:
    """Make this process use the pooler."""
    with engine_on(both["DATABASE_URL"], both["DATABASE_DIRECT_URL"]):
        yield


def in_every_session(work: Callable[[Connection], Any]) -> dict[int, Any]:
    """Do `work` in concurrent transactions on each session of the pool; return the results by server process."""
    together = Barrier(POOL_SIZE, timeout=BARRIER_SECONDS)

    def one(_number: int) -> tuple[int, Any]:
        with db.begin() as connection:
            pid = connection.execute(PID).scalar_one()
            together.wait()
            return pid, work(connection)

    with ThreadPoolExecutor(POOL_SIZE) as threads:
        return dict(threads.map(one, range(POOL_SIZE)))


def shown(connection: Connection) -> dict[str, str]:
    return {row.name: row.setting for row in connection.execute(SHOW, {"names": list(SETTINGS)})}


def refusal(url: str, direct_url: str = "") -> str:
    """Return the reason why a process with these URLs refuses to use the database."""
    with engine_on(url, direct_url), pytest.raises(OperationalError) as refused, db.autocommit():
        pass
    assert isinstance(refused.value.orig, database_sessions.UnsuitableSession), refused.value
    return reason_of(refused.value)


@pytest.mark.usefixtures("pooled")
def test_every_session_of_the_pool_has_the_settings_of_a_direct_session() -> None:
    found = in_every_session(shown)
    assert len(found) == POOL_SIZE
    assert all(settings == SETTINGS for settings in found.values()), found
    with pytest.raises(OperationalError) as ended, db.autocommit() as connection:
        connection.execute(text("SELECT pg_sleep(10)"))
    assert isinstance(ended.value.orig, QueryCanceled), "statement_timeout"


@pytest.mark.usefixtures("pooled")
def test_a_transactions_settings_do_not_affect_the_next_transaction_of_its_session() -> None:
    def change(connection: Connection) -> None:
        db.allow_seq_scans(connection)
        connection.execute(text(ASYNC_COMMIT))
        connection.execute(text("SET LOCAL statement_timeout = '1ms'"))

    def change_and_fail(connection: Connection) -> None:
        change(connection)
        raise ZeroDivisionError

    changed = in_every_session(change)
    with pytest.raises(ZeroDivisionError):
        in_every_session(change_and_fail)
    found = in_every_session(shown)
    assert found.keys() == changed.keys(), "the same sessions"
    assert all(settings == SETTINGS for settings in found.values()), found


@pytest.mark.usefixtures("pooled")
def test_no_statement_depends_on_a_prepared_statement_of_another_session(pooler: PgBouncer) -> None:
    statement = text("SELECT CAST(:number AS int) + 1 AS more")

    def often(first: int) -> list[int]:
        with db.autocommit() as connection:
            return [connection.execute(statement, {"number": first + n}).scalar_one() - n for n in range(50)]

    with ThreadPoolExecutor(2 * POOL_SIZE) as threads:
        began = threads.map(often, range(2 * POOL_SIZE))
        for number in range(20):
            with db.autocommit() as connection:
                assert connection.execute(statement, {"number": number}).scalar_one() == number + 1
            if number == 10:
                pooler.console("RECONNECT")
        assert list(began) == [[first + 1] * 50 for first in range(2 * POOL_SIZE)]


@pytest.mark.usefixtures("pooled")
def test_an_abandoned_statement_does_not_affect_the_next_user_of_its_session() -> None:
    with pytest.raises(OperationalError, match="did not answer"), db.answer_timeout(0.3), db.autocommit() as connection:
        connection.execute(text("SELECT pg_sleep(3)"))
    found = in_every_session(shown)
    assert all(settings == SETTINGS for settings in found.values()), found


def test_a_timeout_of_the_pooler_is_an_outage_with_a_reason(program: Path, direct: URL) -> None:
    with pgbouncer(program, direct, default_pool_size="1", query_wait_timeout="1") as narrow:
        both = environment(narrow, direct)
        with engine_on(both["DATABASE_URL"], both["DATABASE_DIRECT_URL"]):
            with db.begin() as first, db.autocommit() as second:
                first.execute(text("SELECT 1"))
                with pytest.raises(OperationalError) as refused:
                    second.execute(text("SELECT 1"))
            assert "query_wait_timeout" in reason_of(refused.value)
            with db.autocommit() as connection:
                assert connection.execute(text("SELECT 1")).scalar_one() == 1


@pytest.mark.usefixtures("pooled")
def test_notifications_arrive_on_the_direct_connection() -> None:
    with db.listening(outbox.CHANNEL) as wait_for_notification:
        with db.autocommit() as connection:
            connection.exec_driver_sql(f"NOTIFY {outbox.CHANNEL}")
        began = time.monotonic()
        wait_for_notification(10)
        assert time.monotonic() - began < 10


def test_the_error_about_a_pooler_without_a_direct_url_names_the_setting(pooler: PgBouncer) -> None:
    reason = refusal(pooler.url)
    assert "unsupported startup parameter: options" in reason
    assert "Set DATABASE_DIRECT_URL" in reason
    with engine_on(pooler.url):
        answer = create_app().test_client().get("/health/ready")
    assert "Set DATABASE_DIRECT_URL" in expect_problem(answer, 503, "not_ready")["detail"]


def test_a_pooler_that_ignores_settings_is_refused_without_a_direct_url(program: Path, direct: URL) -> None:
    with pgbouncer(program, direct, ignore_startup_parameters="options") as ignoring:
        reason = refusal(ignoring.url)
        migration = run("alembic", "upgrade", "head", DATABASE_URL=ignoring.url)
    assert "Set DATABASE_DIRECT_URL" in reason
    assert migration.returncode != 0
    assert "Set DATABASE_DIRECT_URL" in migration.stdout


def test_a_direct_url_that_names_a_pooler_is_refused(pooler: PgBouncer, program: Path, direct: URL) -> None:
    with pgbouncer(program, direct, ignore_startup_parameters="options") as ignoring:
        for url in (pooler.url, ignoring.url):
            with engine_on(pooler.url, url), pytest.raises(OperationalError) as refused, db.listening("outbox"):
                pass
            assert "a connection pooler answers" in reason_of(refused.value)


def test_sessions_without_settings_are_refused_until_the_role_has_defaults_and_the_pooler_reconnected(
    program: Path, unprepared: URL
) -> None:
    with pgbouncer(program, unprepared) as pooler:
        both = environment(pooler, unprepared)
        reason = refusal(both["DATABASE_URL"], both["DATABASE_DIRECT_URL"])
        assert "statement_timeout is 0, not 4000" in reason
        assert "flask database set-session-defaults" in reason
        assert "RECONNECT" in flask("database", "set-session-defaults", **both)
        assert "RECONNECT" in refusal(both["DATABASE_URL"], both["DATABASE_DIRECT_URL"]), (
            "the open session is unchanged"
        )
        pooler.console("RECONNECT")
        assert "already" in flask("database", "set-session-defaults", **both)
        with engine_on(both["DATABASE_URL"], both["DATABASE_DIRECT_URL"]), db.autocommit() as connection:
            assert shown(connection) == SETTINGS


def test_the_defaults_of_the_role_do_not_apply_to_a_migration(direct: URL, both: dict[str, str]) -> None:
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND query_start < now() - interval '2 s'"
    )
    with (
        psycopg.connect(direct.render_as_string(hide_password=False), autocommit=True) as owner,
        ThreadPoolExecutor(1) as thread,
    ):
        owner.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        migrating = thread.submit(run, "alembic", "upgrade", "head", **both)
        eventually(
            lambda: migrating.done() or owner.execute(waits).fetchone() == (1,), what="a wait beyond lock_timeout"
        )
        owner.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
        assert migrating.result().returncode == 0, migrating.result().stdout


def test_defaults_that_the_role_cannot_set_are_printed_as_statements(pooler: PgBouncer, both: dict[str, str]) -> None:
    other = pooler.address.set(username="somebody_else").render_as_string(hide_password=False)
    done = run("flask", "--app", "gateway.app", "database", "set-session-defaults", **both | {"DATABASE_URL": other})
    assert done.returncode == 1
    statement = (
        f'ALTER ROLE "somebody_else" IN DATABASE "{pooler.address.database}" SET "statement_timeout" = \'4000\';'
    )
    assert statement in done.stdout
    assert "Traceback" not in done.stdout


def test_the_first_of_several_poolers_whose_server_accepts_writes_is_used(
    program: Path, direct: URL, unprepared: URL
) -> None:
    name, owner = unprepared.database, psycopg.connect(direct.render_as_string(hide_password=False), autocommit=True)
    with owner, pgbouncer(program, unprepared) as second:
        flask("database", "set-session-defaults", **environment(second, unprepared))
        owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        away = f"{second.address.host}:9"
        url = second.url.replace("@", f"@{away},")
        with engine_on(url, environment(second, unprepared)["DATABASE_DIRECT_URL"]):
            with pytest.raises(OperationalError) as refused, db.autocommit():
                pass
            assert "read-only" in reason_of(refused.value)
            assert "port 9" in reason_of(refused.value)
            owner.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = current_user",
                (name,),
            )
            eventually(_accepts_writes, what="a session that accepts writes, without a RECONNECT of the pooler")


def _accepts_writes() -> bool:
    try:
        with db.autocommit() as connection:
            return bool(connection.execute(text("SELECT 1")).scalar_one())
    except db.UNAVAILABLE:
        return False
