"""The validity of device tokens."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from gateway.config import ConfigError, settings
from gateway.security import device_tokens, signing_keys
from gateway.security.device_tokens import DEVICE_TOKEN_SECONDS, TOKEN_MAX_LENGTH
from tests.security.processes import output, run

pytestmark = pytest.mark.unit

EMAIL, HASH = "ada@example.com", "$argon2id$v=19$..."


def forget_keys() -> None:
    for cached in (settings, signing_keys.prepared_folder, device_tokens.keys):
        cached.cache_clear()


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use a separate folder for the keys; yield the key file."""
    monkeypatch.setenv("KEYS_DIR", str(tmp_path / "keys"))
    forget_keys()
    device_tokens.make_ready()
    yield tmp_path / "keys" / "device-tokens.key"
    monkeypatch.undo()
    forget_keys()


def test_a_token_is_valid_for_its_account_and_its_password_only(key_file: Path) -> None:
    device = device_tokens.read(device_tokens.issue(EMAIL, HASH, None))

    assert device is not None
    assert (device.belongs_to(EMAIL), device.belongs_to("eve@example.com")) == (True, False)
    assert (device.knows(HASH), device.knows("another hash")) == (True, False)
    assert key_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("key_file")
def test_a_device_keeps_its_id_with_each_new_token() -> None:
    first = device_tokens.issue(EMAIL, HASH, None)
    device = device_tokens.read(first)
    second = device_tokens.issue(EMAIL, HASH, device)

    assert first != second
    assert device_tokens.read(second) == device
    assert device_tokens.read(device_tokens.issue(EMAIL, HASH, None)) != device


@pytest.mark.usefixtures("key_file")
def test_a_token_discloses_no_email_and_has_a_maximum_length() -> None:
    token = device_tokens.issue(EMAIL, HASH, None)

    assert EMAIL not in token
    assert len(token) <= TOKEN_MAX_LENGTH


def test_an_old_token_is_invalid(key_file: Path) -> None:
    fernet = Fernet(key_file.read_bytes())
    content = fernet.decrypt(device_tokens.issue(EMAIL, HASH, None))

    def issued(seconds_ago: int) -> str:
        return fernet.encrypt_at_time(content, int(time.time()) - seconds_ago).decode()

    assert device_tokens.read(issued(DEVICE_TOKEN_SECONDS - 60)) is not None
    assert device_tokens.read(issued(DEVICE_TOKEN_SECONDS + 60)) is None
    assert device_tokens.read(issued(-3_600)) is None


@pytest.mark.usefixtures("key_file")
def test_a_token_that_was_not_issued_here_is_invalid() -> None:
    token = device_tokens.issue(EMAIL, HASH, None)
    forged = Fernet(Fernet.generate_key()).encrypt(bytes(64)).decode()

    for sent in ("", "x", "é", "\x00", token[:-4], token[:-5] + "AAAA=", token * 2, "A" * 100_000, forged):
        assert device_tokens.read(sent) is None


def test_a_new_key_encrypts_while_the_old_key_still_decrypts(key_file: Path) -> None:
    before = device_tokens.issue(EMAIL, HASH, None)
    old, new = key_file.read_bytes(), Fernet.generate_key()
    key_file.write_bytes(new + b"\n" + old + b"\n")

    after = device_tokens.issue(EMAIL, HASH, None)
    assert Fernet(new).decrypt(after)
    assert device_tokens.read(before) is not None

    key_file.write_bytes(new + b"\n")
    assert device_tokens.read(before) is None
    assert device_tokens.read(after) is not None


@pytest.mark.usefixtures("key_file")
def test_revoking_all_tokens_makes_every_device_unknown() -> None:
    before = device_tokens.issue(EMAIL, HASH, None)

    device_tokens.revoke_all()

    assert device_tokens.read(before) is None
    assert device_tokens.read(device_tokens.issue(EMAIL, HASH, None)) is not None


def test_the_known_keys_stay_in_use_while_the_file_is_broken(key_file: Path) -> None:
    token = device_tokens.issue(EMAIL, HASH, None)
    for content in (b"", b"not a key\n"):
        key_file.write_bytes(content)
        assert device_tokens.read(token) is not None

    key_file.unlink()
    assert device_tokens.read(token) is not None


@pytest.mark.parametrize("content", [b"", b"not a key\n"])
def test_a_start_with_broken_keys_fails_and_names_the_file(key_file: Path, content: bytes) -> None:
    key_file.write_bytes(content)
    forget_keys()

    with pytest.raises(ConfigError, match=r"KEYS_DIR.*device-tokens\.key"):
        device_tokens.make_ready()


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    code = """if True:
        from gateway.security import device_tokens, signing_keys
        device_tokens.make_ready()
        print((signing_keys.prepared_folder() / "device-tokens.key").read_text())
    """
    processes = [run(code, tmp_path / "keys") for _ in range(4)]

    assert len({output(process) for process in processes}) == 1
