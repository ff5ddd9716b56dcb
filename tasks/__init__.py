"""The Celery application. `celery -A tasks worker -Q QUEUE` starts a worker of one role."""

import gc
import logging
from typing import Any

from celery import Celery, signals

from celeryconfig import PROBE_TASK
from gateway.flows import clocks
from gateway.telemetry import configure_logging
from tasks.base import GatewayTask
from tasks.bounded_exit import BoundedExit
from tasks.workarounds import AMQP, ReadingHubStep

app = Celery("gateway", task_cls=GatewayTask, amqp=AMQP, set_as_current=True)
app.config_from_object("celeryconfig")
app.steps["worker"].update((BoundedExit, ReadingHubStep))


@signals.setup_logging.connect
def _log_through_loguru(**_: Any) -> None:
    configure_logging()
    # A line for each received message adds nothing to the task's own lines, and delays the task.
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Return whether to log a record: the successes of probes, every few seconds, are omitted."""
    probe = isinstance(record.args, dict) and record.args.get("name") == PROBE_TASK
    return not probe or record.levelno > logging.INFO


@signals.import_modules.connect
def _freeze_loaded_objects(**_: Any) -> None:
    """Exclude the loaded modules from garbage collections: in Flower each took 0.1 s of a processor."""
    for name in app.loader.default_modules:  # Celery does the same after this signal, too late to freeze them
        app.loader.import_task_module(name)
    gc.freeze()


@signals.worker_init.connect
@signals.beat_init.connect
def _watch_the_clock(**_: Any) -> None:
    clocks.watch()
