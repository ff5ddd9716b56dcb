"""Password hashes, and the limit of concurrent computations."""

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


def test_each_argon2id_hash_has_a_different_salt() -> None:
    first, second = hash_password(PASSWORD), hash_password(PASSWORD)

    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert first != second


def test_a_password_verifies_against_its_own_hash_only() -> None:
    stored = hash_password(PASSWORD)

    assert verify_password(PASSWORD, stored)
    assert not verify_password(PASSWORD + " ", stored)
    assert not verify_password(PASSWORD, hash_password("another password"))
    assert not verify_password(PASSWORD, "not a hash")


def test_an_unknown_user_has_no_password() -> None:
    assert not verify_password(PASSWORD, None)
    assert not verify_password("", None)


def test_the_password_of_an_unknown_user_takes_as_long_to_verify() -> None:
    assert extract_parameters(passwords.hash_of_unknown_user()) == extract_parameters(hash_password(PASSWORD))


def test_no_more_hashes_than_the_limit_are_computed_concurrently(monkeypatch: pytest.MonkeyPatch) -> None:
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

    monkeypatch.setattr(passwords, "hasher", Slow())
    with ThreadPoolExecutor(UNKNOWN_DEVICES.places) as threads:
        futures = [threads.submit(hash_password, PASSWORD) for _ in range(UNKNOWN_DEVICES.places)]
        eventually(lambda: running == UNKNOWN_DEVICES.at_once, what="the first hashes")
        release.set()
        assert {future.result() for future in futures} == {"hash"}

    assert most == UNKNOWN_DEVICES.at_once


def test_a_login_above_the_limit_is_rejected_and_can_be_repeated() -> None:
    with ExitStack() as held:
        for _ in range(UNKNOWN_DEVICES.places):
            held.enter_context(verification(UNKNOWN_DEVICES))
        with pytest.raises(TooManyLogins) as refused:
            hash_password(PASSWORD)

    assert refused.value.status == 503
    assert refused.value.headers["Retry-After"]
    assert hash_password(PASSWORD)


def test_known_devices_have_separate_places_and_may_use_the_others() -> None:
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


def test_logins_leave_api_threads_for_payments() -> None:
    assert UNKNOWN_DEVICES.places + KNOWN_DEVICES.places < settings().api_threads
