"""Declare the broker's topology: `python -m tasks.topology`, once per deployment, before all processes start.

It consists of exchanges, queues, dead-letter queues, and RabbitMQ's delay queues with a binding for each work queue. A
delayed message for a queue without this binding would be lost silently, even with publisher confirms.
"""

import argparse
import json
import sys
from urllib.parse import quote, unquote, urlsplit

import requests
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)
from loguru import logger

import celeryconfig
from gateway.config import settings
from gateway.reasons import reason_of
from gateway.telemetry import configure_logging
from tasks import app
from tasks.base import BROKER_UNAVAILABLE

MANAGEMENT_TIMEOUT_SECONDS = 10
POLICY = "gateway-message-ttl"


def declare() -> None:
    """Declare everything; a repetition changes nothing.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot be reached.
        amqp.exceptions.PreconditionFailed: a queue exists with other arguments; see docs/operations.md.
    """
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=3, interval_start=1, timeout=15)
        channel = connection.default_channel
        for exchange in (celeryconfig.UNROUTED, celeryconfig.DEAD_LETTERS, celeryconfig.PAYMENTS):
            exchange(channel).declare()
        for queue in (celeryconfig.UNROUTED_QUEUE, *celeryconfig.DEAD_LETTER_QUEUES, *celeryconfig.WORK_QUEUES):
            queue(channel).declare()
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        for queue in celeryconfig.WORK_QUEUES:
            bind_queue_to_native_delayed_delivery_exchange(connection, queue)


def set_message_ttl() -> None:
    """Set the message TTL of the work queues as a broker policy, which can be changed later, unlike a queue argument.

    Raises:
        requests.RequestException: the management API is unavailable or rejected the policy.
    """
    config = settings()
    names = "|".join(name.replace(".", "\\.") for name in celeryconfig.WORK_QUEUE_NAMES)
    definition = {"message-ttl": 1000 * config.message_ttl_seconds}
    if config.rabbitmq_management_url is None:
        logger.warning(
            "RABBITMQ_MANAGEMENT_URL is not set, so MESSAGE_TTL_SECONDS is not applied; set it, or run: "
            "rabbitmqctl set_policy -p VHOST --apply-to queues {} '^({})$' '{}'", POLICY, names, json.dumps(definition)
        )  # fmt: skip
        return
    vhost = unquote(urlsplit(config.rabbitmq_url.split(";")[0]).path.removeprefix("/")) or "/"
    url = f"{config.rabbitmq_management_url}/api/policies/{quote(vhost, safe='')}/{POLICY}"
    if config.message_ttl_seconds == 0:
        response = requests.delete(url, timeout=MANAGEMENT_TIMEOUT_SECONDS)
        if response.status_code != requests.codes.not_found:
            response.raise_for_status()
        return
    body = {"pattern": f"^({names})$", "definition": definition, "apply-to": "queues"}
    requests.put(url, json=body, timeout=MANAGEMENT_TIMEOUT_SECONDS).raise_for_status()


def main() -> int:
    """Declare the topology; return 1 if the broker cannot be reached."""
    argparse.ArgumentParser(prog="python -m tasks.topology", description=__doc__).parse_args()
    configure_logging()
    try:
        declare()
        set_message_ttl()
    except requests.RequestException as exc:  # its text would contain the URL with the password
        status = exc.response.status_code if exc.response is not None else type(exc).__name__
        logger.error("the message TTL could not be set by the management API ({}); see RABBITMQ_MANAGEMENT_URL", status)
        return 1
    except BROKER_UNAVAILABLE as exc:
        logger.error("the broker's topology could not be declared: {}; see docs/operations.md", reason_of(exc))
        return 1
    logger.info("topology declared: {}", ", ".join(celeryconfig.WORK_QUEUE_NAMES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
