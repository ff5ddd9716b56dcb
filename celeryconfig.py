"""The configuration of Celery: broker, queues, routes, limits, schedule of beat.

https://docs.celeryq.dev/en/stable/userguide/configuration.html describes the settings; docs/pipeline.md the queues.
"""

import ssl

from celery.schedules import crontab, schedule
from kombu import Exchange, Queue

from gateway.config import settings
from gateway.flows.clocks import scheduling_time

_settings = settings()

# --- Exchanges and queues. `python -m tasks.topology` declares them; all other processes only use them.
PAYMENTS = Exchange("payments", type="topic", durable=True, arguments={"alternate-exchange": "payments.unrouted"})
DEAD_LETTERS = Exchange("payments.dlx", type="direct", durable=True)  # a topic exchange would also match delayed keys
UNROUTED = Exchange("payments.unrouted", type="fanout", durable=True)
QUORUM = {"x-queue-type": "quorum"}
DELIVERY_LIMIT = 20

MAIN_QUEUE_NAMES = (
    "transaction.created",
    "settlement.requested",
    "settlement.completed",
    "refund.requested",
    "webhook.delivery",
    "operations",
)
BULK_SUFFIX = ".bulk"
PROBE_TASK = "queues.take_probe"
BULK_QUEUE_NAMES = tuple(
    f"{name}{BULK_SUFFIX}" for name in ("transaction.created", "settlement.requested", "refund.requested")
)
"""Queues for work that must not delay other work: one merchant's backlog, and all retries. See docs/fairness.md."""
WORK_QUEUE_NAMES = MAIN_QUEUE_NAMES + BULK_QUEUE_NAMES
WORK_QUEUES = tuple(
    Queue(
        name,
        PAYMENTS,
        routing_key=name,
        queue_arguments={
            **QUORUM,
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": DEAD_LETTERS.name,
            "x-dead-letter-routing-key": f"dlq.{name.removesuffix(BULK_SUFFIX)}",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    for name in WORK_QUEUE_NAMES
)
DEAD_LETTER_QUEUES = tuple(
    Queue(f"dlq.{name}", DEAD_LETTERS, routing_key=f"dlq.{name}", queue_arguments=QUORUM) for name in MAIN_QUEUE_NAMES
)
UNROUTED_QUEUE = Queue("unrouted", UNROUTED, queue_arguments=QUORUM)

task_queues = WORK_QUEUES
task_create_missing_queues = False
task_default_queue = "operations"
task_default_exchange = PAYMENTS.name
task_default_exchange_type = PAYMENTS.type
task_default_routing_key = "operations"
task_routes = {
    "payments.route": {"queue": "transaction.created"},
    "payments.settle": {"queue": "settlement.requested"},
    "payments.announce": {"queue": "settlement.completed"},
    "payments.refund": {"queue": "refund.requested"},
    "payments.recover": {"queue": "settlement.requested.bulk"},
    "payments.recover_refunds": {"queue": "refund.requested.bulk"},
    "webhooks.*": {"queue": "webhook.delivery"},
    "operations.*": {"queue": "operations"},
}
imports = (
    "tasks.transactions",
    "tasks.refunds",
    "tasks.webhooks",
    "tasks.upkeep",
    "tasks.alerts",
    "tasks.reconciliation",
    "tasks.dead_letters",
    "tasks.queue_watch",
    "tasks.monitor",
)

# --- Broker
broker_url = _settings.rabbitmq_url
if "amqps://" in broker_url:  # by default only the chain of the certificate is verified, not its host
    broker_use_ssl = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_channel_error_retry = True
broker_heartbeat = 10
broker_transport_options = {"confirm_publish": True}
# Five seconds in all: while a cluster elects a queue's new leader, a second or two, it refuses messages.
task_publish_retry_policy = {"max_retries": 8, "interval_start": 0, "interval_step": 0.2, "interval_max": 1}

# --- A message is acknowledged after its task. A task that finally fails rejects it, and the broker dead-letters it.
task_acks_late = True
task_acks_on_failure = False
task_acks_on_timeout = False
task_reject_on_worker_lost = True
task_retry_on_worker_lost = True
task_ignore_result = True
task_serializer = "json"
accept_content = ["json"]
task_soft_time_limit = _settings.claim_lease_seconds + 10  # HTTP and database timeouts are shorter
task_time_limit = task_soft_time_limit + 20

# --- Workers
worker_consumer = "tasks.workarounds:Consumer"
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = False
worker_send_task_events = True
worker_hijack_root_logger = False
worker_redirect_stdouts = False
worker_enable_remote_control = True

# --- Beat. It does not catch up after an outage: each job also does the work of missed runs. It uses the database's
# clock, and RabbitMQ measures the time after which a job that was not consumed is dropped: `expires` would require two
# hosts whose clocks agree.
timezone = _settings.reconciliation_time_zone
beat_max_loop_interval = 5
BALANCES_FOLD_SECONDS = 15.0  # reading a balance adds up the changes that are not folded yet
beat_schedule = {
    "sweep": {
        "task": "operations.sweep",
        "schedule": schedule(float(_settings.sweep_interval_seconds), nowfun=scheduling_time),
        "options": {"expiration": _settings.sweep_interval_seconds},
    },
    "fold_balances": {
        "task": "operations.fold_balances",
        "schedule": schedule(BALANCES_FOLD_SECONDS, nowfun=scheduling_time),
        "options": {"expiration": BALANCES_FOLD_SECONDS},
    },
    "check_invariants": {
        "task": "operations.check_invariants",
        "schedule": schedule(float(_settings.invariants_interval_seconds), nowfun=scheduling_time),
        "options": {"expiration": _settings.invariants_interval_seconds},
    },
    "check_balances": {
        "task": "operations.check_balances",
        "schedule": crontab(minute=30, hour=_settings.reconciliation_hour, nowfun=scheduling_time),
        "options": {"expiration": 3600},
    },
    "reconcile": {
        "task": "operations.reconcile",
        "schedule": crontab(minute=0, hour=_settings.reconciliation_hour, nowfun=scheduling_time),
        "options": {"expiration": 3600},
    },
}
