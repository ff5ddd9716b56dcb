"""A worker step: a worker that failed ends in bounded time."""

import os
import threading
from typing import Any

from celery import bootsteps
from celery.platforms import EX_FAILURE

EXIT_SECONDS = 90.0
"""The time for the current tasks of a failed worker; docs/deployment.md recommends the same for a stopped worker."""


class BoundedExit(bootsteps.StartStopStep):
    """Ends the process some time after an unrecoverable error.

    Celery waits for the current tasks, even for one that never ends, and a process that only waits is not restarted.
    A worker that was stopped by a signal is not affected: its supervisor decides how long it waits.
    """

    requires = ("celery.worker.components:Pool",)

    def close(self, parent: Any) -> None:
        """Start the countdown, if the worker failed."""
        if parent.exitcode == EX_FAILURE:
            timer = threading.Timer(EXIT_SECONDS, os._exit, [EX_FAILURE])
            timer.daemon = True
            timer.start()
