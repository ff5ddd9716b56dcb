"""The settings, in groups. The first line of a group's docstring is its heading in docs/configuration.md."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.config.values import BrokerUrls, PostgresqlUrl, ProviderNames, TimeZoneName, WebUrl

MESSAGE_IDS_LIMIT = 500
"""Upper limit of `message_max_ids`: no message has more ids, whatever the setting was when it was published."""
ACCESS_TOKEN_SECONDS_MAX = 86_400
"""Upper limit of `access_token_seconds`: no token has a longer lifetime, whatever the setting was."""
DATABASE_TIMEOUT_SECONDS_MAX = 60
MESSAGE_TTL_SECONDS_MAX = 315_360_000
"""RabbitMQ's limit: ten years."""


class _Group(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", populate_by_name=True)


class Servers(_Group):
    """PostgreSQL and RabbitMQ"""

    database_url: PostgresqlUrl = Field(
        description="PostgreSQL 15 or later. Several hosts are separated by commas: `host1:5432,host2:5432`",
        examples=["postgresql://user:password@localhost:5432/payments"],
    )
    database_direct_url: PostgresqlUrl | None = Field(
        default=None,
        description="PostgreSQL itself, if DATABASE_URL is a pooler in transaction mode such as PgBouncer. It is used "
        "for LISTEN, migrations and session defaults (docs/deployment-pgbouncer.md)",
        examples=["postgresql://user:password@localhost:5432/payments"],
    )
    database_pool_size: int = Field(
        default=20, ge=1, le=200, description="Maximum connections in the connection pool of one process"
    )
    database_timeout_seconds: int = Field(
        default=10,
        ge=1,
        le=DATABASE_TIMEOUT_SECONDS_MAX,
        description="Maximum time of one statement of the API or of a task",
    )
    clock_offset_max_seconds: int = Field(
        default=60,
        ge=5,
        le=3600,
        description="Maximum difference between this host's clock and PostgreSQL's; above it the API is not ready",
    )
    rabbitmq_url: BrokerUrls = Field(
        validation_alias=AliasChoices("RABBITMQ_URL", "BROKER_URL"),
        description="RabbitMQ 3.10 or later, `amqp://` or `amqps://`. The nodes of a cluster are separated by "
        "semicolons. BROKER_URL is a synonym",
        examples=["amqp://user:password@localhost:5672/payments"],
    )
    rabbitmq_management_url: WebUrl | None = Field(
        default=None,
        description="RabbitMQ's management API with credentials. It is needed for the queue metrics on `/metrics` and "
        "for applying MESSAGE_TTL_SECONDS",
        examples=["http://user:password@localhost:15672"],
    )


class Api(_Group):
    """API server"""

    host: str = Field(default="127.0.0.1", description="Address on which the API and Flower listen")
    port: int = Field(default=8000, ge=1, le=65535, description="Port on which the API listens")
    api_workers: int = Field(default=2, ge=1, le=1024, description="API processes of this host")
    api_threads: int = Field(default=16, ge=1, le=256, description="Maximum concurrent requests of one API process")
    api_connections: int = Field(
        default=8192,
        ge=64,
        le=1_000_000,
        description="Maximum connections of one API process. Each needs an open file; the process does not start if "
        "its limit of open files is lower",
    )
    request_body_seconds: int = Field(
        default=10,
        ge=1,
        le=300,
        description="Maximum time for receiving a request body. Uploaded files have 120 seconds",
    )
    trusted_proxies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Number of proxies in front of the API that each append to X-Forwarded-For; with 0 the header is "
        "ignored. If it is too low, all callers share the limits of one address; if it is too high, callers can forge "
        "their address (docs/deployment-reverse-proxy.md)",
    )


class Access(_Group):
    """Keys and access tokens"""

    keys_dir: Path = Field(
        default=Path(".keys"),
        description="Folder of the keys that sign access tokens, hash client secrets, and encrypt webhook secrets and "
        "device tokens. It is created at the first start, with mode 0700. All hosts share it. Back it up: without it, "
        "client secrets and tokens are invalid and webhooks cannot be signed",
    )
    jwt_issuer: str = Field(default="payment-gateway", description="Issuer (`iss`) of access tokens")
    jwt_audience: str = Field(default="payment-gateway-api", description="Audience (`aud`) of access tokens")
    access_token_seconds: int = Field(
        default=3600, ge=60, le=ACCESS_TOKEN_SECONDS_MAX, description="Lifetime of an access token"
    )


class RateLimits(_Group):
    """Limits of callers"""

    rate_limit_per_second: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="Requests of one API client, in all API processes together. 0 disables the limit",
    )
    merchant_rate_limit_per_second: int = Field(
        default=2000,
        ge=0,
        le=1_000_000,
        description="Requests of all API clients of one merchant, in all API processes together. 0 disables the limit",
    )
    merchant_unfinished_max: int = Field(
        default=100_000,
        ge=0,
        le=10_000_000,
        description="Maximum payments of one merchant without an outcome; each API process may exceed it by a "
        "sixteenth. 0 disables the limit (docs/fairness.md)",
    )
    auth_rate_limit_per_second: int = Field(
        default=10,
        ge=0,
        le=1_000_000,
        description="Requests to `/auth/*` and `/oauth/token` from one address (IPv6: from one /64 network). "
        "0 disables the limit",
    )
    auth_rate_limit_burst: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="Requests to `/auth/*` and `/oauth/token` that one address may send in a burst after a pause",
    )


class Pipeline(_Group):
    """Pipeline"""

    message_max_ids: int = Field(
        default=200, ge=1, le=MESSAGE_IDS_LIMIT, description="Maximum ids of payments in one message"
    )
    outbox_poll_seconds: float = Field(
        default=0.5,
        ge=0.001,
        le=0.5,
        description="Interval at which the relay reads the outbox when PostgreSQL sends no notification",
    )
    message_ttl_seconds: int = Field(
        default=300,
        ge=0,
        le=MESSAGE_TTL_SECONDS_MAX,
        description="Time after which an unconsumed message expires; its payments are requeued. 0 disables the "
        "expiry. `python -m tasks.topology` applies a change",
    )
    retry_backoff_seconds: int = Field(
        default=2, ge=1, le=60, description="Delay of the first retry. It doubles with each retry, with jitter"
    )
    retry_backoff_max_seconds: int = Field(default=60, ge=1, le=3600, description="Maximum delay of a retry")
    sweep_interval_seconds: int = Field(
        default=30, ge=1, le=3600, description="Interval of the sweep, which enqueues stuck work again"
    )
    stuck_after_seconds: int = Field(
        default=330,
        ge=2,
        description="Time without progress after which work counts as stuck. It must be longer than "
        "MESSAGE_TTL_SECONDS and than the maximum delay of a retry; otherwise work is done twice, which is harmless "
        "but slow",
    )


class Providers(_Group):
    """Providers"""

    providers: ProviderNames = Field(
        default=("simulated",),
        description="Providers of new payments, in order of preference, separated by commas",
    )
    sandbox_acquirer_url: WebUrl | None = Field(
        default=None,
        validate_default=True,
        description="The sandbox acquirer (`python -m gateway.sandbox`). It is required if PROVIDERS contains sandbox, "
        "and as long as a payment that was sent there is not finished",
        examples=["http://127.0.0.1:9400"],
    )
    provider_timeout_seconds: int = Field(default=10, ge=1, le=60, description="Maximum time of a provider call")
    provider_threads: int = Field(
        default=200,
        ge=1,
        le=200,
        description="Maximum concurrent provider calls of one merchant in one worker process, which has an eighth more "
        "threads for other merchants (docs/fairness.md)",
    )
    fee_basis_points: int = Field(
        default=290, ge=0, le=10_000, description="Fee of a new merchant in basis points: 290 is 2.90 % of the amount"
    )

    @field_validator("sandbox_acquirer_url")
    @classmethod
    def _require_url_of_listed_sandbox(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and "sandbox" in info.data.get("providers", ()):
            raise ValueError("must be set, because PROVIDERS contains sandbox")
        return url


class Checks(_Group):
    """Invariants and reconciliation"""

    invariants_interval_seconds: int = Field(
        default=60, ge=5, le=600, description="Interval of the check of the invariants"
    )
    reconciliation_hour: int = Field(default=2, ge=0, le=23, description="Hour of the nightly reconciliation")
    reconciliation_time_zone: TimeZoneName = Field(
        default="UTC", description="IANA time zone of RECONCILIATION_HOUR, such as Europe/Zurich"
    )
    reconciliation_timeout_seconds: int = Field(
        default=900,
        ge=1,
        le=1_500,
        description="Maximum time of a reconciliation; RabbitMQ delivers an unacknowledged message again after half an "
        "hour",
    )


class WebhooksAndAlerts(_Group):
    """Webhooks and alerts"""

    webhook_allow_loopback: bool = Field(
        default=False,
        description="Allow merchants' webhooks to `http://` URLs and to this host. For development only; `make run` "
        "sets it",
    )
    alert_webhook_url: WebUrl | None = Field(
        default=None,
        description="Receiver of alerts; without it, alerts are logged only. "
        "`flask --app gateway.app alert-receiver` is a receiver for development",
        examples=["http://127.0.0.1:9000/alerts"],
    )
    alert_timeout_seconds: int = Field(
        default=10, ge=1, le=30, description="Maximum time of a call of ALERT_WEBHOOK_URL"
    )


class LogsAndMetrics(_Group):
    """Logs and metrics"""

    log_service_name: str = Field(default="payment-gateway", description="Value of `service` in log lines and alerts")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="Lowest level that is logged"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="Format of the log; `auto` is console on a terminal and json elsewhere"
    )
    prometheus_multiproc_dir: Path | None = Field(
        default=None,
        description="Folder in which the processes of this host share their metrics. It must exist, and must be "
        "emptied before a start. Without it, `/metrics` has the metrics of one API process only",
        examples=["/run/payment-gateway/metrics"],
    )
    metrics_dir: Path | None = Field(
        default=None,
        description="Folder whose subfolders are the PROMETHEUS_MULTIPROC_DIR of each container of this host; "
        "`/metrics` adds up all of them. Process ids are unique within one container only. The image sets it",
        examples=["/run/payment-gateway/metrics"],
    )
