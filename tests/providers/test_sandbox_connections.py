"""The connections of the sandbox adapter: proxies, threads and forked processes."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from gateway.outcomes import Approved, Charge
from gateway.providers.sandbox import SandboxProvider
from tests.sandbox.process import AcquirerProcess, Configure

pytestmark = pytest.mark.unit

TIMEOUT_SECONDS = 10


def new_charge() -> Charge:
    return Charge(uuid4(), 1_000, "USD", "tok_approve", 1)


def test_proxies_of_the_environment_are_ignored(acquirer: AcquirerProcess, configure: Configure) -> None:
    configure(HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", NO_PROXY=None, no_proxy=None)
    assert isinstance(SandboxProvider(acquirer.url, TIMEOUT_SECONDS).charge(new_charge()), Approved)


def test_threads_that_share_an_adapter_charge_one_key_once(acquirer: AcquirerProcess) -> None:
    provider, charge = SandboxProvider(acquirer.url, TIMEOUT_SECONDS), new_charge()
    with ThreadPoolExecutor(50) as pool:
        outcomes = set(pool.map(lambda _: provider.charge(charge), range(200)))
    assert [type(outcome) for outcome in outcomes] == [Approved]
    assert len(acquirer.charges(charge.idempotency_key)) == 1


_CHARGE_IN_TWO_PROCESSES = """
import os, sys
from uuid import uuid4
from gateway.outcomes import Approved, Charge
from gateway.providers.sandbox import SandboxProvider

provider = SandboxProvider(sys.argv[1], 10)

def charge(times):
    charges = [Charge(uuid4(), 1_000, "USD", "tok_approve", 1) for _ in range(times)]
    return all(isinstance(provider.charge(charge), Approved) for charge in charges)

charge(1)
child = os.fork()
succeeded = charge(50)
if child == 0:
    os._exit(0 if succeeded else 1)
sys.exit(0 if succeeded and os.waitpid(child, 0)[1] == 0 else 1)
"""


def test_a_forked_process_does_not_use_the_connection_of_its_parent(acquirer: AcquirerProcess) -> None:
    command = [sys.executable, "-c", _CHARGE_IN_TWO_PROCESSES, acquirer.url]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
