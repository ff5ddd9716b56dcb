"""Signing keys and the key of client secrets."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from gateway import keys
from gateway.config import ConfigError
from gateway.keys import KeyRing
from tests.support import eventually

ROOT = Path(__file__).parents[1]
PROCESSES = 6


def run(code: str, folder: Path) -> "subprocess.Popen[str]":
    """Run Python code in a process whose keys are in `folder`."""
    environment = os.environ | {"KEYS_DIR": str(folder)}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def output(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where keys are made by another process."""
    made = tmp_path / "deep" / "keys"
    output(run("from gateway import keys; keys.make_ready()", made))
    return made


@pytest.fixture
def ring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeyRing:
    """The keys of `folder`, looked at again whenever they are needed."""
    monkeypatch.setattr(keys, "RELOAD_SECONDS", 0.0)
    return KeyRing(folder)


def rotate(folder: Path, name: str = "signing-0002.pem") -> None:
    """Add a key, complete at once."""
    temporary = folder / ".new-test"
    temporary.write_bytes(keys._new_private_key())
    temporary.rename(folder / name)


def test_the_first_start_makes_keys_that_only_their_owner_can_read(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["client-secrets.key", "signing-0001.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_processes_that_start_together_agree_on_the_keys(tmp_path: Path) -> None:
    code = """if True:
        from gateway import keys
        keys.make_ready()
        print(keys.key_ring().newest().key_id, keys.hash_secret('s').hex())
    """
    processes = [run(code, tmp_path / "keys") for _ in range(PROCESSES)]

    assert len({output(process) for process in processes}) == 1
    assert len(list((tmp_path / "keys").iterdir())) == 2


def test_a_key_is_named_by_its_thumbprint(ring: KeyRing) -> None:
    [key] = ring.as_jwks()["keys"]

    assert key["kid"] == ring.newest().key_id
    assert len(key["kid"]) == 43
    assert ring.find(key["kid"]) is ring.newest()
    assert ring.find("another") is None


def test_the_thumbprint_is_the_one_of_rfc_7638() -> None:
    example = jwt.PyJWK(
        {
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJE"
            "CPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2Q"
            "vzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6"
            "WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
        },
        algorithm="RS256",
    )

    assert keys._thumbprint(example.key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_published_key_has_no_private_part(ring: KeyRing) -> None:
    assert set(ring.as_jwks()["keys"][0]) == {"kty", "n", "e", "use", "alg", "kid"}


def test_an_added_key_signs_and_the_old_one_still_verifies_without_a_restart(ring: KeyRing, folder: Path) -> None:
    old = ring.newest()
    rotate(folder)

    assert ring.newest().key_id != old.key_id
    assert ring.find(old.key_id) is not None
    assert len(ring.as_jwks()["keys"]) == 2


def test_a_removed_key_verifies_no_more(ring: KeyRing, folder: Path) -> None:
    old = ring.newest()
    rotate(folder)
    (folder / "signing-0001.pem").unlink()

    assert ring.find(old.key_id) is None


def test_a_file_that_is_no_key_leaves_the_known_ones_in_use(ring: KeyRing, folder: Path) -> None:
    known = ring.newest()
    (folder / "signing-0002.pem").write_text("not a key")

    assert ring.newest() is known


def test_the_order_is_that_of_the_numbers(ring: KeyRing, folder: Path) -> None:
    for name in ("signing-0010.pem", "signing-0002.pem"):
        rotate(folder, name)
    newest = KeyRing(folder).newest()
    (folder / "signing-0010.pem").unlink()

    eventually(lambda: ring.newest().key_id != newest.key_id, within=2)


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"])
def test_a_start_with_a_broken_key_is_refused_with_its_name(folder: Path, content: bytes) -> None:
    (folder / "signing-0001.pem").write_bytes(content)

    with pytest.raises(ConfigError, match=r"KEYS_DIR.*signing-0001\.pem"):
        KeyRing(folder)


def test_a_secret_matches_its_own_hash_only() -> None:
    stored = keys.hash_secret("secret")

    assert len(stored) == 32
    assert keys.secret_matches("secret", stored)
    assert not keys.secret_matches("Secret", stored)
    assert not keys.secret_matches("secret", bytes(32))


def test_a_secret_has_another_hash_under_another_key(folder: Path) -> None:
    elsewhere = output(run("from gateway import keys; print(keys.hash_secret('secret').hex())", folder))

    assert elsewhere != keys.hash_secret("secret").hex()
