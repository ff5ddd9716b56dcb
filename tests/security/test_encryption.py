"""Secrets at rest."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from gateway.config import ConfigError, settings
from gateway.security import encryption, signing_keys
from gateway.security.encryption import UnreadableSecret

SECRET = "whsec_c2VjcmV0"


def start_anew() -> None:
    for cached in (settings, signing_keys.prepared_folder, encryption._keys, encryption.decrypt):
        cached.cache_clear()


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the keys, in a folder of the test's own."""
    monkeypatch.setenv("KEYS_DIR", str(tmp_path / "keys"))
    start_anew()
    yield tmp_path / "keys" / "webhook-secrets.key"
    monkeypatch.undo()
    start_anew()


def test_a_secret_is_stored_encrypted_and_never_twice_the_same(key_file: Path) -> None:
    stored = [encryption.encrypt(SECRET), encryption.encrypt(SECRET)]
    assert stored[0] != stored[1]
    assert not any(SECRET.encode() in text for text in stored)
    assert [encryption.decrypt(text) for text in stored] == [SECRET] * 2
    assert key_file.stat().st_mode & 0o777 == 0o600


def test_another_process_with_the_same_folder_decrypts_it(key_file: Path) -> None:
    stored = encryption.encrypt(SECRET)
    assert key_file.exists()
    start_anew()
    assert encryption.decrypt(stored) == SECRET


def test_a_new_key_takes_over_while_the_old_one_still_decrypts(key_file: Path) -> None:
    before = encryption.encrypt(SECRET)
    old, new = key_file.read_bytes(), Fernet.generate_key()
    key_file.write_bytes(new + b"\n" + old + b"\n")
    start_anew()
    after = encryption.encrypt(SECRET)
    assert Fernet(new).decrypt(after) == SECRET.encode()
    assert [encryption.decrypt(before), encryption.decrypt(after)] == [SECRET] * 2


def test_without_the_right_key_a_secret_is_unreadable(key_file: Path) -> None:
    stored = encryption.encrypt(SECRET)
    key_file.write_bytes(Fernet.generate_key())
    start_anew()
    with pytest.raises(UnreadableSecret):
        encryption.decrypt(stored)


@pytest.mark.parametrize("content", [b"", b"not a key", b"c2hvcnQ="])
def test_a_broken_key_file_is_found_at_the_start(key_file: Path, content: bytes) -> None:
    encryption.make_ready()
    key_file.write_bytes(content)
    start_anew()
    with pytest.raises(ConfigError, match=r"webhook-secrets\.key"):
        encryption.make_ready()


def test_the_key_is_made_by_whoever_starts_first(key_file: Path) -> None:
    encryption.make_ready()
    assert os.listdir(key_file.parent).count("webhook-secrets.key") == 1
