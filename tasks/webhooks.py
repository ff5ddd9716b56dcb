"""Deliver events to merchants' webhook endpoints, in a `worker-webhooks` process."""

from typing import Any

from celery import signals

from gateway.flows import webhooks
from tasks import app
from tasks.base import parse_ids


@app.task(name="webhooks.deliver")
def deliver(ids: object) -> None:
    """Start the due deliveries of these endpoints in the background, so that no receiver delays the queue.

    The database knows which deliveries are due, so nothing is lost with the message or the process.
    """
    webhooks.wake(parse_ids(ids))


@signals.worker_process_shutdown.connect
def _finish_deliveries(**_: Any) -> None:
    webhooks.close()
