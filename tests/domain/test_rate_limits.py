"""Token buckets in PostgreSQL: leases, refilling and purging."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.api.access.rate_limits import DEVICE_LOGINS
from gateway.config import Settings
from gateway.db import autocommit
from gateway.domain.merchants import rate_limits
from gateway.domain.merchants.login_limits import ACCOUNT, ADDRESS, DEVICE, FIRST_TRIES
from gateway.domain.merchants.rate_limits import IDLE_SECONDS, Lease, Limit
from tests.helpers.factories import count, execute

pytestmark = pytest.mark.usefixtures("database")
SLOW = Limit(per_second=0.1, burst=10)
PACED = Limit(per_second=1, burst=100, reserve=90)


def lease(subject: str = "s", limit: Limit = SLOW, wanted: int = 1) -> Lease:
    with autocommit() as connection:
        return rate_limits.lease(connection, subject, limit, wanted)


def rest(seconds: float) -> None:
    """Let time pass for all buckets."""
    execute("UPDATE rate_limits SET refilled_at = refilled_at - make_interval(secs => :seconds)", seconds=seconds)


def test_a_new_bucket_is_full_and_an_empty_one_reports_the_time_until_the_next_token() -> None:
    assert lease(wanted=10).granted == 10

    refused = lease()

    assert refused.granted == 0
    assert 9 < refused.wait_seconds <= 10


def test_a_lease_gets_the_remaining_tokens() -> None:
    lease(wanted=7)

    assert lease(wanted=7).granted == 3


def test_a_bucket_fills_at_its_rate_up_to_its_burst() -> None:
    lease(wanted=10)
    rest(25)
    assert lease(wanted=10).granted == 2
    rest(1_000)
    assert lease(wanted=10).granted == 10
    assert lease().granted == 0


def test_a_clock_that_goes_back_takes_no_tokens() -> None:
    lease(wanted=5)
    rest(-60)

    assert lease(wanted=10).granted == 5


def test_subjects_have_separate_buckets() -> None:
    lease("a", wanted=10)

    assert lease("b", wanted=10).granted == 10


def test_concurrent_leases_do_not_exceed_the_bucket() -> None:
    with ThreadPoolExecutor(8) as threads:
        granted = sum(threads.map(lambda _: lease(wanted=1).granted, range(100)))

    assert granted == 10


def test_a_subject_that_reached_the_limit_is_paced_until_the_bucket_is_full() -> None:
    assert lease(limit=PACED, wanted=100).granted == 100
    refused = lease(limit=PACED, wanted=50)
    assert refused.granted == 0
    assert 80 < refused.wait_seconds <= 91  # to the first token above the reserve
    rest(95)
    assert 5 <= lease(limit=PACED, wanted=50).granted <= 10
    rest(200)
    assert lease(limit=PACED, wanted=100).granted == 100


def test_a_returned_token_can_be_taken_again() -> None:
    lease(wanted=10)
    with autocommit() as connection:
        rate_limits.give_back(connection, "s", SLOW)

    assert lease(wanted=10).granted == 1


def test_only_idle_buckets_are_purged() -> None:
    lease("old")
    rest(IDLE_SECONDS + 1)
    lease("new")

    with autocommit() as connection:
        assert rate_limits.purge(connection, 100) == 1

    assert count("rate_limits") == count("rate_limits", "subject = 'new'") == 1


def test_a_purged_bucket_would_be_full() -> None:
    fields = Settings.model_fields
    slowest = Limit(fields["auth_rate_limit_per_second"].default, fields["auth_rate_limit_burst"].default)

    for limit in (ACCOUNT, ADDRESS, DEVICE, DEVICE_LOGINS, FIRST_TRIES, slowest):
        assert limit.burst / limit.per_second <= IDLE_SECONDS


def test_the_commit_of_a_lease_does_not_wait_for_the_disk() -> None:
    with autocommit() as connection:
        persistence = connection.exec_driver_sql("SELECT relpersistence FROM pg_class WHERE relname = 'rate_limits'")
        assert persistence.scalar_one() == "u"  # UNLOGGED
