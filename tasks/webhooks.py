"""Events to merchants: endpoints with due deliveries come to a `worker-webhooks` process, which sees to them."""

from typing import Any

from celery import signals

from gateway.flows import webhooks
from tasks import app
from tasks.base import TRANSIENT, GatewayTask, parse_ids


@app.task(name="webhooks.deliver", base=GatewayTask, bind=True, autoretry_for=TRANSIENT, max_retries=3)
def deliver(_self: GatewayTask, ids: object) -> None:
    """Have this process see to the due deliveries of these endpoints. It returns at once: no receiver holds up a queue.

    The database knows what is due, so nothing is lost with the message, or with the process.
    """
    webhooks.wake(parse_ids(ids))


@signals.worker_process_shutdown.connect
def _finish(**_: Any) -> None:
    webhooks.close()
