"""The extrapolated time of the database, and ids that contain it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from gateway import db, ids
from gateway.clock import MEASURE_SECONDS, OFFSET_SECONDS, DatabaseClock, database_clock, describe
from gateway.flows import clocks
from tests.helpers.factories import count, execute

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECOND = 1_000_000_000


class Machine:
    """A machine with two clocks, and a database that answers with a delay."""

    def __init__(self) -> None:
        self.monotonic_ns = 7 * SECOND
        self.wall = START
        self.database = START

    def clock(self) -> DatabaseClock:
        return DatabaseClock(lambda: self.monotonic_ns, lambda: int(self.wall.timestamp() * SECOND))

    def pass_time(self, seconds: float) -> None:
        self.monotonic_ns += int(seconds * SECOND)
        self.wall += timedelta(seconds=seconds)
        self.database += timedelta(seconds=seconds)

    def answer(self, there: float, back: float) -> datetime:
        self.pass_time(there)
        reported = self.database
        self.pass_time(back)
        return reported

    def measure(self, clock: DatabaseClock, there: float = 0.001, back: float = 0.001) -> bool:
        return clock.measure(lambda: self.answer(there, back))

    def error(self, clock: DatabaseClock) -> float:
        """Return the difference between the clock and the database's time."""
        return clock.now_ns() / SECOND - self.database.timestamp()


def test_the_time_is_that_of_the_database_regardless_of_the_clock_of_the_host() -> None:
    machine = Machine()
    machine.wall += timedelta(days=1)
    clock = machine.clock()
    assert not clock.is_known()
    machine.measure(clock)
    machine.pass_time(10)
    machine.wall -= timedelta(days=3)
    assert machine.error(clock) == pytest.approx(0, abs=1e-6)
    assert clock.offset_seconds() == pytest.approx(-2 * 86_400, abs=1e-3)


def test_before_the_first_measurement_the_time_is_unknown() -> None:
    clock = Machine().clock()
    assert clock.offset_seconds() is None
    with pytest.raises(RuntimeError):
        clock.now_ns()


def test_the_time_is_measured_periodically() -> None:
    machine = Machine()
    clock = machine.clock()
    assert machine.measure(clock)
    assert not machine.measure(clock)
    machine.pass_time(MEASURE_SECONDS)
    assert machine.measure(clock)
    clock.forget()
    assert machine.measure(clock)


def test_a_slow_response_does_not_replace_a_more_exact_measurement() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.measure(clock)
    machine.pass_time(MEASURE_SECONDS)
    machine.measure(clock, there=0.9, back=0)
    assert machine.error(clock) == pytest.approx(0, abs=1e-6)
    clock = machine.clock()
    machine.measure(clock, there=0.9, back=0)
    machine.pass_time(MEASURE_SECONDS)
    machine.measure(clock)
    assert machine.error(clock) == pytest.approx(0, abs=1e-6)


def test_the_next_measurement_corrects_a_jump_of_the_databases_time() -> None:
    for jump in (timedelta(hours=1), timedelta(hours=-1)):
        machine = Machine()
        clock = machine.clock()
        machine.measure(clock)
        machine.database += jump
        machine.pass_time(MEASURE_SECONDS)
        machine.measure(clock, there=0.4, back=0.4)
        assert machine.error(clock) == pytest.approx(0, abs=1e-6)


def test_a_failed_measurement_does_not_change_the_time_and_is_repeated() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.measure(clock)
    machine.pass_time(MEASURE_SECONDS)

    def fail() -> datetime:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011  # raised by `fail`
        clock.measure(fail)
    assert machine.error(clock) == pytest.approx(0, abs=1e-6)
    assert clock.is_due()


def test_the_callback_gets_the_offset_of_a_wrong_clock_and_of_no_other() -> None:
    machine = Machine()
    clock = machine.clock()
    reported: list[float] = []
    clock.on_offset(reported.append)
    for offset in (0.0, OFFSET_SECONDS - 0.1, OFFSET_SECONDS + 0.1, -3600.0):
        machine.wall = machine.database + timedelta(seconds=offset)
        clock.forget()
        machine.measure(clock)
    assert reported == pytest.approx([OFFSET_SECONDS + 0.1, -3600], abs=1e-3)
    assert "3600.0 s behind" in describe(reported[1])
    assert "5.1 s ahead of" in describe(reported[0])


@pytest.fixture
def _wrong_time() -> Iterator[None]:
    """Make the measured time of this process wrong by an hour, as after a long suspension."""
    database_clock.forget()
    database_clock.measure(lambda: datetime.now(UTC) + timedelta(hours=1))
    yield
    db.measure_time()


@pytest.mark.usefixtures("_wrong_time")
def test_ids_follow_a_time_that_is_set_back_by_an_hour() -> None:
    before = ids.new_id()
    db.measure_time()
    assert ids.time_of(before) - ids.time_of(ids.new_id()) > timedelta(minutes=59)


def test_ids_contain_the_databases_time_in_the_format_of_rfc_9562() -> None:
    with db.autocommit() as connection:
        reported = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    made = [ids.new_id() for _ in range(100)]
    assert abs(ids.time_of(made[0]) - reported) < timedelta(seconds=2)
    assert {(id.version, id.variant) for id in made} == {(7, "specified in RFC 4122")}
    assert abs(ids.utc_now() - reported) < timedelta(seconds=2)


def test_ids_of_many_threads_are_unique_and_in_order_per_thread() -> None:
    start = threading.Barrier(8)

    def make(_: int) -> list[object]:
        start.wait(10)
        return [ids.new_id() for _ in range(5_000)]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert all(of_thread == sorted(of_thread) for of_thread in made)  # type: ignore[type-var]
    assert len({id for of_thread in made for id in of_thread}) == 8 * 5_000


@pytest.mark.usefixtures("database")
def test_a_host_with_a_wrong_clock_raises_one_alert_regardless_of_its_number_of_processes() -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(clocks.alert_of_offset, [86_400.0] * 8))
    assert count("alerts", "severity = 'error' AND details->>'kind' = 'clock_far_off'") == 1
    clocks.alert_of_offset(-6.0)
    assert count("alerts", "severity = 'warning' AND message LIKE '%6.0 s behind%'") == 1
    execute("UPDATE alerts SET created_at = now() - make_interval(secs => :s)", s=clocks.ALERT_PAUSE_SECONDS + 1)
    clocks.alert_of_offset(86_400.0)
    assert count("alerts") == 3
