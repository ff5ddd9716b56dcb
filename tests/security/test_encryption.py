"""Encryption of stored secrets."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from gateway.config import ConfigError, settings
from gateway.security import encryption, signing_keys
from gateway.security.encryption import UnreadableSecret

pytestmark = pytest.mark.unit

SECRET = "whsec_c2VjcmV0"


def forget_keys() -> None:
    for cached in (settings, signing_keys.prepared_folder, encryption.keys, encryption.decrypt):
        cached.cache_clear()


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use a separate folder for the keys; yield the key file."""
    monkeypatch.setenv("KEYS_DIR", str(tmp_path / "keys"))
    forget_keys()
    yield tmp_path / "keys" / "webhook-secrets.key"
    monkeypatch.undo()
    forget_keys()


def test_each_encryption_of_a_secret_is_different(key_file: Path) -> None:
    stored = [encryption.encrypt(SECRET), encryption.encrypt(SECRET)]
    assert stored[0] != stored[1]
    assert not any(SECRET.encode() in text for text in stored)
    assert [encryption.decrypt(text) for text in stored] == [SECRET] * 2
    assert key_file.stat().st_mode & 0o777 == 0o600


def test_another_process_with_the_same_folder_decrypts_a_secret(key_file: Path) -> None:
    stored = encryption.encrypt(SECRET)
    assert key_file.exists()
    forget_keys()
    assert encryption.decrypt(stored) == SECRET


def test_a_new_key_encrypts_while_the_old_key_still_decrypts(key_file: Path) -> None:
    before = encryption.encrypt(SECRET)
    old, new = key_file.read_bytes(), Fernet.generate_key()
    key_file.write_bytes(new + b"\n" + old + b"\n")
    forget_keys()
    after = encryption.encrypt(SECRET)
    assert Fernet(new).decrypt(after) == SECRET.encode()
    assert [encryption.decrypt(before), encryption.decrypt(after)] == [SECRET] * 2


def test_without_the_right_key_a_secret_is_unreadable(key_file: Path) -> None:
    stored = encryption.encrypt(SECRET)
    key_file.write_bytes(Fernet.generate_key())
    forget_keys()
    with pytest.raises(UnreadableSecret):
        encryption.decrypt(stored)


@pytest.mark.parametrize("content", [b"", b"not a key", b"c2hvcnQ="])
def test_a_broken_key_file_is_reported_at_the_start(key_file: Path, content: bytes) -> None:
    encryption.make_ready()
    key_file.write_bytes(content)
    forget_keys()
    with pytest.raises(ConfigError, match=r"webhook-secrets\.key"):
        encryption.make_ready()


def test_the_first_start_creates_the_key(key_file: Path) -> None:
    encryption.make_ready()
    assert os.listdir(key_file.parent).count("webhook-secrets.key") == 1
