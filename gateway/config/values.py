"""The types of settings that need more than a number or a choice: URLs, time zones and lists of providers."""

from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, HttpUrl
from pydantic_settings import NoDecode

BROKER_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})


def _postgresql_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres", "postgresql+psycopg"} or not rest:
        raise ValueError("must look like postgresql://user:password@host:5432/database")
    return f"postgresql+psycopg://{_with_hosts_in_query(rest)}"


def _with_hosts_in_query(rest: str) -> str:
    """Write several hosts in the form that SQLAlchemy accepts: `user@/database?host=a:1&host=b:2`."""
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
                f"broker scheme {parts.scheme!r} is not supported; use amqp:// or amqps:// (RabbitMQ). Other brokers "
                "have no dead-letter exchanges and no publisher confirms, so failing payments would be lost"
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


def _split_names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


def _without_duplicates(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("names a provider twice")
    return names


PostgresqlUrl = Annotated[str, AfterValidator(_postgresql_url)]
BrokerUrls = Annotated[str, AfterValidator(_broker_urls)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
TimeZoneName = Annotated[str, AfterValidator(_time_zone)]
ProviderName = Literal["simulated", "sandbox"]
ProviderNames = Annotated[
    tuple[ProviderName, ...],
    NoDecode,
    BeforeValidator(_split_names),
    AfterValidator(_without_duplicates),
]
