"""The settings of every process, read from the environment once.

Each field is one environment variable of the same name in upper case; `.env.example` lists them all. A missing
or malformed one raises `ConfigError`, whose message names the variable and says what to write there.
"""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    HttpUrl,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

BROKER_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})
CHUNK_LIMIT = 500
"""No message has more ids, whatever `chunk_max` is or was when it was published."""
ACCESS_TOKEN_SECONDS_MAX = 86_400
"""No token lives longer, whatever the setting is or was."""
DATABASE_TIMEOUT_SECONDS_MAX = 60


class ConfigError(SystemExit):
    """The environment is not one that this gateway can run with."""


def _postgresql_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres", "postgresql+psycopg"} or not rest:
        raise ValueError("must look like postgresql://user:password@host:5432/database")
    return f"postgresql+psycopg://{_hosts_apart(rest)}"


def _hosts_apart(rest: str) -> str:
    """What stands behind the scheme, several hosts as SQLAlchemy takes them: `user@/database?host=a:1&host=b:2`."""
    authority, slash, tail = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    if "," not in hosts:
        return rest
    query = "&".join(f"host={host}" for host in hosts.split(","))
    return f"{user}{at}{slash or '/'}{tail}{'&' if '?' in tail else '?'}{query}"


def _broker_urls(urls: str) -> str:
    for url in urls.split(";"):
        parts = urlsplit(url.strip())
        if parts.scheme not in BROKER_SCHEMES:
            raise ValueError(
                f"broker scheme {parts.scheme!r} is not supported; use amqp:// or amqps:// (RabbitMQ). Others have "
                "neither dead-letter exchanges nor publisher confirms, so that a failing payment would vanish"
            )
        if not parts.hostname:
            raise ValueError("must look like amqp://user:password@host:5672/vhost (several: separated by ';')")
    return urls


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:
        raise ValueError(f"{name!r} is not an IANA time zone such as Europe/Zurich") from exc
    return name


def _web_url(url: str) -> str:
    HttpUrl(url)
    return url.rstrip("/")


WebUrl = Annotated[str, AfterValidator(_web_url)]


def _provider_names(value: object) -> object:
    """The names of a comma-separated list, in order."""
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


def _listed_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("names a provider twice")
    return names


ProviderName = Literal["simulated", "sandbox"]
ProviderNames = Annotated[
    tuple[ProviderName, ...],
    NoDecode,
    BeforeValidator(_provider_names),
    AfterValidator(_listed_once),
]


class Settings(BaseSettings):
    """Every setting, with its unit in its name or its description."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", populate_by_name=True)

    database_url: Annotated[str, AfterValidator(_postgresql_url)] = Field(
        description="PostgreSQL 15 or later: postgresql://user:password@host:5432/database"
    )
    database_direct_url: Annotated[str, AfterValidator(_postgresql_url)] | None = Field(
        default=None,
        description="PostgreSQL itself, when DATABASE_URL names a pooler in transaction mode such as PgBouncer",
    )
    rabbitmq_url: Annotated[str, AfterValidator(_broker_urls)] = Field(
        validation_alias=AliasChoices("RABBITMQ_URL", "BROKER_URL"),
        description="RabbitMQ: amqp://user:password@host:5672/vhost; several nodes separated by ';'",
    )
    rabbitmq_management_url: WebUrl | None = Field(
        default=None, description="RabbitMQ's management API with credentials; queue depths come from there"
    )
    keys_dir: Path = Field(
        default=Path(".keys"),
        description="Folder of the signing keys; made on first start with mode 0700. Hosts of one gateway share it",
    )
    host: str = Field(default="127.0.0.1", description="Address that the API listens on")
    port: int = Field(default=8000, ge=1, le=65535, description="Port that the API listens on")
    api_workers: int = Field(
        default=2, ge=1, le=1024, description="API processes; with one for each processor, each keeps to its own"
    )
    api_threads: int = Field(default=16, ge=1, le=256, description="Concurrent requests of one API process")
    api_connections: int = Field(
        default=8192, ge=64, le=1_000_000, description="Concurrent connections of one API process"
    )
    request_body_seconds: int = Field(
        default=10, ge=1, le=300, description="Maximum time for receiving a body of at most 64 KiB"
    )

    log_service_name: str = Field(default="payment-gateway", description="`service` in every log line and alert")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="json for machines, console for people; auto takes console on a terminal"
    )
    prometheus_multiproc_dir: Path | None = Field(
        default=None, description="Folder that this host's processes add their metrics up in; emptied at start-up"
    )

    jwt_issuer: str = "payment-gateway"
    jwt_audience: str = "payment-gateway-api"
    access_token_seconds: int = Field(
        default=3600, ge=60, le=ACCESS_TOKEN_SECONDS_MAX, description="Lifetime of an access token"
    )

    database_pool_size: int = Field(default=20, ge=1, le=200, description="Connections that one process may hold")
    database_timeout_seconds: int = Field(
        default=10,
        ge=1,
        le=DATABASE_TIMEOUT_SECONDS_MAX,
        description="Maximum time of a statement of the API or of a task",
    )
    clock_offset_max_seconds: int = Field(
        default=60,
        ge=5,
        le=3600,
        description="Maximum difference between this host's clock and PostgreSQL's; above it the API is not ready",
    )
    chunk_max: int = Field(default=200, ge=1, le=CHUNK_LIMIT, description="Transaction ids in one message, at most")
    outbox_poll_ms: int = Field(
        default=500, ge=1, le=500, description="How often the outbox is looked into when nothing was notified"
    )
    message_ttl_ms: int = Field(
        default=300_000, ge=0, description="A work message expires after this time; 0 turns it off"
    )
    retry_backoff_seconds: int = Field(default=2, ge=1, le=60, description="First retry delay; it doubles each time")
    retry_backoff_max_seconds: int = Field(default=60, ge=1, le=3600, description="Longest retry delay")
    providers: ProviderNames = Field(
        default=("simulated",),
        description="Where payments go, in order of preference, separated by commas: simulated, sandbox",
    )
    sandbox_acquirer_url: WebUrl | None = Field(
        default=None,
        validate_default=True,
        description="Of a running `python -m gateway.sandbox`, such as http://127.0.0.1:9400. Keep it for as long as a "
        "payment that went there is open, even when PROVIDERS lists sandbox no longer",
    )
    provider_timeout_seconds: int = Field(default=10, ge=1, le=60, description="The longest that a provider may take")
    provider_threads: int = Field(
        default=200, ge=1, le=200, description="Concurrent provider calls of one merchant per worker process"
    )

    rate_limit_per_second: int = Field(
        default=1000, ge=0, le=1_000_000, description="Requests of one API client, all processes together; 0: no limit"
    )
    merchant_rate_limit_per_second: int = Field(
        default=2000, ge=0, le=1_000_000, description="Requests of all API clients of one merchant; 0: no limit"
    )
    merchant_unfinished_max: int = Field(
        default=100_000,
        ge=0,
        le=10_000_000,
        description="Maximum payments of one merchant without an outcome; 0: no limit",
    )
    auth_rate_limit_per_second: int = Field(
        default=10, ge=0, le=1_000_000, description="Requests to /auth/* and /oauth/token from one address; 0: no limit"
    )
    auth_rate_limit_burst: int = Field(
        default=100, ge=1, le=1_000_000, description="So many of them may come at once after a rest"
    )
    trusted_proxies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Proxies in front of the API that each add to X-Forwarded-For; 0: the header is not believed",
    )

    fee_basis_points: int = Field(
        default=290, ge=0, le=10_000, description="Fee of a new merchant, in hundredths of a per cent of the amount"
    )
    sweep_interval_seconds: int = Field(default=30, ge=1, le=3600, description="Pause between two sweeps")
    stuck_after_seconds: int = Field(
        default=330,
        ge=2,
        description="Work that stood still this long is enqueued again; longer than MESSAGE_TTL_MS and than a retry",
    )
    invariants_interval_seconds: int = Field(
        default=60, ge=5, le=600, description="Pause between two checks of the invariants"
    )
    reconciliation_hour: int = Field(default=2, ge=0, le=23, description="Hour of the nightly reconciliation")
    reconciliation_time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    reconciliation_timeout_seconds: int = Field(
        default=900,
        ge=1,
        le=1_500,
        description="The longest that a reconciliation may take; RabbitMQ takes a message back after half an hour",
    )

    webhook_allow_loopback: bool = Field(
        default=False,
        description="Whether merchants' webhooks may go to http:// URLs and to this host: for development only",
    )
    alert_webhook_url: WebUrl | None = Field(default=None, description="Receiver of alerts; without it they are logged")
    alert_timeout_seconds: int = Field(default=10, ge=1, le=30, description="The longest that the receiver may take")

    @field_validator("sandbox_acquirer_url")
    @classmethod
    def _sandbox_has_a_url(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and "sandbox" in info.data.get("providers", ()):
            raise ValueError("must be set, because PROVIDERS lists sandbox")
        return url

    @property
    def claim_lease_seconds(self) -> int:
        """Time for which a claimed attempt belongs to its worker: a charge, a status query, and the recording."""
        return 2 * self.provider_timeout_seconds + self.database_timeout_seconds


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        name = str(item["loc"][0]).upper() if item["loc"] else "environment"
        problem = "is not set" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
        field = Settings.model_fields.get(name.lower())
        hint = f" ({field.description})" if field is not None and field.description else ""
        lines.append(f"  {name}: {problem}{hint}")
    return "The gateway cannot start with these settings (see .env.example):\n" + "\n".join(lines)


@cache
def settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigError: a setting is missing or malformed; the process should end with this message.
    """
    try:
        return Settings()  # fields come from the environment
    except ValidationError as exc:
        raise ConfigError(_explain(exc)) from None


def runs_under_test() -> bool:
    """Whether this process belongs to a test stack, where test-only provider tokens are allowed."""
    return os.environ.get("GATEWAY_TEST_TOKENS") == "1"
