"""The Celery application. `celery -A tasks worker -Q QUEUE` starts a worker of one role."""

import logging
from typing import Any

from celery import Celery, signals

from gateway.telemetry import configure_logging

app = Celery("gateway", task_cls="tasks.base:GatewayTask", set_as_current=True)
app.config_from_object("celeryconfig")


@signals.setup_logging.connect
def _log_through_loguru(**_: Any) -> None:
    configure_logging()
    # One line for each message as it arrives says nothing that the task's own lines do not, and delays the task.
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
