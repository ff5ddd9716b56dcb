"""Payment methods that kill or block the process that charges them, for tests of the gateway's recovery.

They exist in test stacks only (`gateway.config.runs_under_test`); elsewhere they are unknown payment methods.
"""

import os
import signal
import threading

from gateway.config import runs_under_test

KILL_WORKER = "tok_test_kill_worker"
"""The process that charges it kills itself with SIGKILL every time."""
HANG = "tok_test_hang"
"""The call that charges it never returns."""


def is_poison(payment_method: str) -> bool:
    """Return whether `payment_method` is one of these and this process belongs to a test stack."""
    return payment_method in {KILL_WORKER, HANG} and runs_under_test()


def apply(payment_method: str) -> None:
    """Kill or block this process if the payment method is one of these."""
    if not is_poison(payment_method):
        return
    if payment_method == KILL_WORKER:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
