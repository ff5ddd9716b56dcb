"""Payment methods that break the process that uses them, to prove that the gateway outlives it.

They exist only where `gateway.config.runs_under_test` says so; elsewhere they are payment methods like any unknown
one.
"""

import os
import signal
import threading

from gateway.config import runs_under_test

KILL_WORKER = "tok_test_kill_worker"
"""The process that charges it kills itself with SIGKILL, each time."""
HANG = "tok_test_hang"
"""The call that charges it never returns."""


def is_poison(payment_method: str) -> bool:
    """Whether `payment_method` is one of these, and this process one that may be broken."""
    return payment_method in {KILL_WORKER, HANG} and runs_under_test()


def take(payment_method: str) -> None:
    """Do what the payment method says; returns at once for every other one."""
    if not is_poison(payment_method):
        return
    if payment_method == KILL_WORKER:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
