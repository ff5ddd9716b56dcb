"""Hashes of client secrets."""

from pathlib import Path

import pytest

from gateway.security import client_secrets
from tests.security.processes import output, run

pytestmark = pytest.mark.unit


def test_a_secret_matches_its_own_hash_only() -> None:
    stored = client_secrets.hash_secret("secret")

    assert len(stored) == 32
    assert client_secrets.secret_matches("secret", stored)
    assert not client_secrets.secret_matches("Secret", stored)
    assert not client_secrets.secret_matches("secret", bytes(32))


def test_a_secret_has_another_hash_under_another_key(tmp_path: Path) -> None:
    code = "from gateway.security import client_secrets; print(client_secrets.hash_secret('secret').hex())"

    assert output(run(code, tmp_path)) != client_secrets.hash_secret("secret").hex()
