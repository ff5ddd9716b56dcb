"""Password hashes, and how many are computed at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from argon2 import extract_parameters

from gateway.config import settings
from gateway.security import passwords
from gateway.security.passwords import (
    KNOWN_DEVICES,
    UNKNOWN_DEVICES,
    TooManyLogins,
    hash_password,
    verification,
    verify_password,
)
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.unit

PASSWORD = "correct horse battery staple"


def test_a_hash_is_argon2id_with_a_salt_of_its_own() -> None:
    first, second = hash_password(PASSWORD), hash_password(PASSWORD)

    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert first != second


def test_a_password_verifies_against_its_own_hash_only() -> None:
    stored = hash_password(PASSWORD)

    assert verify_password(PASSWORD, stored)
    assert not verify_password(PASSWORD + " ", stored)
    assert not verify_password(PASSWORD, hash_password("another password"))
    assert not verify_password(PASSWORD, "not a hash")


def test_nobody_has_a_password() -> None:
    assert not verify_password("the password of nobody", None)


def test_a_password_of_nobody_costs_what_that_of_somebody_does() -> None:
    assert extract_parameters(passwords._nobodys_hash()) == extract_parameters(hash_password(PASSWORD))


def test_no_more_hashes_than_the_bound_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    release, running, most, lock = threading.Event(), 0, 0, threading.Lock()

    class Slow:
        def hash(self, _password: str) -> str:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            release.wait(10)
            with lock:
                running -= 1
            return "hash"

    monkeypatch.setattr(passwords, "_hasher", Slow())
    with ThreadPoolExecutor(UNKNOWN_DEVICES.places) as threads:
        futures = [threads.submit(hash_password, PASSWORD) for _ in range(UNKNOWN_DEVICES.places)]
        eventually(lambda: running == UNKNOWN_DEVICES.at_once, what="the first hashes")
        release.set()
        assert {future.result() for future in futures} == {"hash"}

    assert most == UNKNOWN_DEVICES.at_once


def test_when_every_place_is_taken_the_next_one_is_refused_and_may_come_again() -> None:
    with ExitStack() as held:
        for _ in range(UNKNOWN_DEVICES.places):
            held.enter_context(verification(UNKNOWN_DEVICES))
        with pytest.raises(TooManyLogins) as refused:
            hash_password(PASSWORD)

    assert refused.value.status == 503
    assert refused.value.headers["Retry-After"]
    assert hash_password(PASSWORD)


def test_known_devices_have_places_of_their_own_and_take_others_when_those_are_full() -> None:
    stored = hash_password(PASSWORD)
    with ExitStack() as held:
        for _ in range(UNKNOWN_DEVICES.places):
            held.enter_context(verification(UNKNOWN_DEVICES))
        with pytest.raises(TooManyLogins):
            verify_password(PASSWORD, stored)
        with verification(KNOWN_DEVICES, UNKNOWN_DEVICES) as verify:
            assert verify(PASSWORD, stored)

    with ExitStack() as held:
        for _ in range(KNOWN_DEVICES.places):
            held.enter_context(verification(KNOWN_DEVICES))
        with verification(KNOWN_DEVICES, UNKNOWN_DEVICES) as verify:
            assert verify(PASSWORD, stored)


def test_log_ins_leave_threads_of_the_api_for_payments() -> None:
    assert UNKNOWN_DEVICES.places + KNOWN_DEVICES.places < settings().api_threads
