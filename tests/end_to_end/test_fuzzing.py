"""Send the running API what /openapi.json allows and what it forbids, and compare each response with the document.

FUZZ_EXAMPLES=200 in the environment tries each call so often at random, instead of a few times and always the same.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.client import Client

CONFIG = Path(__file__).with_name("schemathesis.toml")
LIMIT_SECONDS = 1800
LOGOUT = "logout"
"""The operation that revokes the token of the other calls."""


def operations(client: Client, *, of_operators: bool) -> set[str]:
    """Return the operations of the document that operators may call, or all the others."""
    paths = client.get("/openapi.json")["paths"]
    described = [operation for operations in paths.values() for operation in operations.values()]
    return {
        operation["operationId"]
        for operation in described
        if ("operations:" in str(operation["security"])) == of_operators
    }


def fuzz(client: Client, chosen: set[str], folder: Path) -> None:
    """Run schemathesis on these operations.

    Raises:
        AssertionError: a response does not conform to the document; the message contains it and the way to repeat it.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    command += [
        f"{client.api_url}/openapi.json",
        "-H",
        "Authorization: " + str(client.session.headers["Authorization"]),
    ]
    for name in sorted(chosen):
        command += ["--include-operation-id", name]
    examples = os.environ.get("FUZZ_EXAMPLES")
    command += ["--max-examples", examples] if examples else ["--generation-deterministic"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, timeout=LIMIT_SECONDS)

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert f"Selected: {len(chosen)}/" in done.stdout, done.stdout


def test_the_api_conforms_to_its_document_whatever_a_merchant_sends(merchant: Client, tmp_path: Path) -> None:
    fuzz(merchant, operations(merchant, of_operators=False) - {LOGOUT}, tmp_path)


def test_the_api_conforms_to_its_document_whatever_an_operator_sends(operator: Client, tmp_path: Path) -> None:
    fuzz(operator, operations(operator, of_operators=True), tmp_path)


def test_the_api_conforms_to_its_document_while_a_token_is_revoked(merchant: Client, tmp_path: Path) -> None:
    fuzz(merchant, {LOGOUT}, tmp_path)

    assert merchant.call("GET", "/v1/transactions").status_code == 401
