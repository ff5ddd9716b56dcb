"""Password hashes, and how many are computed at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import extract_parameters

from gateway import passwords
from gateway.passwords import HASHES_AT_ONCE, HASHES_WAITING, TooManyLogins, hash_password, verify_password

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


def test_no_more_hashes_than_the_bound_run_at_once_and_the_rest_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
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
    admitted = HASHES_AT_ONCE + HASHES_WAITING
    with ThreadPoolExecutor(admitted) as threads:
        futures = [threads.submit(hash_password, PASSWORD) for _ in range(admitted)]
        while passwords._admitted._value > 0:
            threading.Event().wait(0.01)
        with pytest.raises(TooManyLogins) as refused:
            hash_password(PASSWORD)
        release.set()
        assert {future.result() for future in futures} == {"hash"}

    assert most == HASHES_AT_ONCE
    assert refused.value.status == 503
    assert refused.value.headers["Retry-After"]
