"""Signing keys: files, rotation and states."""

import os
import shutil
import stat
import time
from collections import Counter
from pathlib import Path

import jwt
import pytest

from gateway.config import ConfigError
from gateway.config.groups import ACCESS_TOKEN_SECONDS_MAX
from gateway.security import signing_keys
from gateway.security.signing_keys import JWKS_CACHE_SECONDS, OVERLAP_SECONDS, RETIRED_AFTER_SECONDS, KeyRing
from tests.security.processes import output, run

pytestmark = pytest.mark.unit

PROCESSES = 6
MAKE_READY = (
    "from gateway.security import client_secrets, signing_keys; signing_keys.make_ready(); client_secrets.make_ready()"
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let another process create keys, once for all tests."""
    made = tmp_path_factory.mktemp("keys") / "deep" / "keys"
    output(run(MAKE_READY, made))
    return made


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder in which another process has created the keys."""
    return Path(shutil.copytree(original, tmp_path / "deep" / "keys"))


@pytest.fixture
def ring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeyRing:
    """Return the keys of `folder`; the folder is checked at every use."""
    monkeypatch.setattr(signing_keys, "RELOAD_SECONDS", 0.0)
    return KeyRing(folder)


def add_key(folder: Path, name: str = "signing-0002.pem", age: float = 0.0) -> Path:
    """Add a key file of this age in seconds atomically."""
    temporary = folder / ".new-test"
    temporary.write_bytes(signing_keys.new_private_key())
    os.utime(temporary, times=(time.time() - age,) * 2)
    return temporary.rename(folder / name)


def states(ring: KeyRing) -> list[str]:
    return [f"{key.path.stem[-4:]} {state}" for key, state in ring.with_states()]


def test_the_first_start_creates_keys_that_only_their_owner_can_read(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["client-secrets.key", "signing-0001.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_processes_that_start_together_agree_on_the_keys(tmp_path: Path) -> None:
    code = """if True:
        from gateway.security import client_secrets, signing_keys
        signing_keys.make_ready()
        print(signing_keys.key_ring().signing().key_id, client_secrets.hash_secret('s').hex())
    """
    processes = [run(code, tmp_path / "keys") for _ in range(PROCESSES)]

    assert len({output(process) for process in processes}) == 1
    assert len(list((tmp_path / "keys").iterdir())) == 2


def test_a_key_is_named_by_its_thumbprint(ring: KeyRing) -> None:
    [key] = ring.as_jwks()["keys"]

    assert key["kid"] == ring.signing().key_id
    assert len(key["kid"]) == 43
    assert ring.find(key["kid"]) == ring.signing()
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

    assert signing_keys.thumbprint(example.key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_published_key_has_no_private_part(ring: KeyRing) -> None:
    assert set(ring.as_jwks()["keys"][0]) == {"kty", "n", "e", "use", "alg", "kid"}


def test_an_added_key_is_published_immediately_and_signs_after_the_overlap(ring: KeyRing, folder: Path) -> None:
    old = ring.signing()
    added = add_key(folder, age=OVERLAP_SECONDS - 5)

    assert states(ring) == ["0001 signing", "0002 next"]
    assert ring.signing().key_id == old.key_id
    assert len(ring.as_jwks()["keys"]) == 2

    os.utime(added, times=(time.time() - OVERLAP_SECONDS,) * 2)

    assert states(ring) == ["0001 verifying", "0002 signing"]
    assert ring.signing().key_id != old.key_id
    assert ring.find(old.key_id) == old


def test_the_overlap_is_longer_than_clients_may_cache_the_published_keys() -> None:
    assert JWKS_CACHE_SECONDS + signing_keys.RELOAD_SECONDS < OVERLAP_SECONDS


def test_a_key_retires_when_every_token_that_it_signed_has_expired(ring: KeyRing, folder: Path) -> None:
    old = ring.signing()
    added = add_key(folder, age=OVERLAP_SECONDS + ACCESS_TOKEN_SECONDS_MAX)

    assert ring.find(old.key_id) == old

    os.utime(added, times=(time.time() - RETIRED_AFTER_SECONDS,) * 2)

    assert states(ring) == ["0001 retired", "0002 signing"]
    assert ring.find(old.key_id) is None
    assert [key["kid"] for key in ring.as_jwks()["keys"]] == [ring.signing().key_id]


def test_the_highest_key_that_is_old_enough_signs(ring: KeyRing, folder: Path) -> None:
    add_key(folder, "signing-0002.pem", age=RETIRED_AFTER_SECONDS)
    add_key(folder, "signing-0010.pem", age=OVERLAP_SECONDS)
    add_key(folder, "signing-10000.pem")

    assert states(ring) == ["0001 retired", "0002 verifying", "0010 signing", "0000 next"]


def test_the_lowest_key_signs_if_no_key_is_old_enough(ring: KeyRing, folder: Path) -> None:
    add_key(folder)
    assert states(ring) == ["0001 signing", "0002 next"]

    (folder / "signing-0001.pem").unlink()  # as after a leak

    assert states(ring) == ["0002 signing"]


def test_a_removed_key_does_not_verify(ring: KeyRing, folder: Path) -> None:
    old = ring.signing()
    add_key(folder)
    (folder / "signing-0001.pem").unlink()

    assert ring.find(old.key_id) is None


def test_the_known_keys_stay_in_use_while_the_folder_cannot_be_read(ring: KeyRing, folder: Path) -> None:
    known = ring.signing()
    broken = folder / "signing-0002.pem"
    broken.write_text("not a key")
    assert ring.signing() == known

    broken.rename(folder / "signing-new.pem")
    assert ring.signing() == known

    (folder / "signing-new.pem").unlink()
    (folder / "signing-0001.pem").unlink()
    assert ring.signing() == known


def test_a_rotation_creates_no_second_key_before_the_first_one_signs(ring: KeyRing, folder: Path) -> None:
    made = ring.add_key()

    assert made == folder / "signing-0002.pem"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert ring.add_key() is None
    assert len(ring.with_states()) == 2


def test_concurrent_rotations_create_one_key(folder: Path) -> None:
    code = "from gateway.security import signing_keys; print(signing_keys.key_ring().add_key())"
    made = [output(process) for process in [run(code, folder) for _ in range(PROCESSES)]]

    assert Counter(made) == {str(folder / "signing-0002.pem"): 1, "None": PROCESSES - 1}
    assert len(list(folder.glob("signing-*"))) == 2


def test_only_retired_keys_are_deleted(ring: KeyRing, folder: Path) -> None:
    retired = folder / "signing-0001.pem"
    add_key(folder, "signing-0002.pem", age=RETIRED_AFTER_SECONDS)
    add_key(folder, "signing-0003.pem", age=OVERLAP_SECONDS)
    add_key(folder, "signing-0004.pem")

    assert ring.remove_retired() == [retired]
    assert ring.remove_retired() == []
    assert states(ring) == ["0002 verifying", "0003 signing", "0004 next"]


def test_a_key_that_replaces_all_signs_immediately_and_is_the_only_one(ring: KeyRing, folder: Path) -> None:
    add_key(folder, "signing-0002.pem", age=OVERLAP_SECONDS)
    add_key(folder, "signing-0003.pem")
    before, generation = {key.key_id for key, _ in ring.with_states()}, ring.generation()

    made, deleted = ring.replace_all()

    assert made == folder / "signing-0004.pem"
    assert [path.name for path in deleted] == ["signing-0001.pem", "signing-0002.pem", "signing-0003.pem"]
    assert states(ring) == ["0004 signing"]
    assert ring.signing().key_id not in before
    assert not any(ring.find(key_id) for key_id in before)
    assert ring.generation() != generation


def test_concurrent_replacements_leave_the_highest_key(folder: Path) -> None:
    code = "from gateway.security import signing_keys; print(signing_keys.key_ring().replace_all()[0].name)"
    made = [output(process) for process in [run(code, folder) for _ in range(PROCESSES)]]

    assert len(set(made)) == PROCESSES
    assert [path.name for path in folder.glob("signing-*")] == [max(made)]
    assert not list(folder.glob(".new-*"))


def test_the_generation_changes_only_when_the_files_change(ring: KeyRing, folder: Path) -> None:
    first = ring.generation()
    assert ring.generation() == first

    add_key(folder)

    assert ring.generation() != first


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"])
def test_a_start_with_a_broken_key_fails_and_names_the_file(folder: Path, content: bytes) -> None:
    (folder / "signing-0001.pem").write_bytes(content)

    with pytest.raises(ConfigError, match=r"KEYS_DIR.*signing-0001\.pem"):
        KeyRing(folder)
