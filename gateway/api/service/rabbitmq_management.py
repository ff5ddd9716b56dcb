"""Read queue lengths and consumers from the management API of RabbitMQ, at most every few seconds."""

import threading
import time
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

import requests
from loguru import logger

from gateway.config import settings
from gateway.providers import bounded_http

TIMEOUT_SECONDS = 1.0
CACHE_SECONDS = 3.0
COLUMNS = "name,messages,consumers"


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, with the number of its messages, delivered ones included, and of its consumers."""

    name: str
    messages: int
    consumers: int


class QueueReader:
    """Reads the queues, and caches them for `CACHE_SECONDS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = -CACHE_SECONDS
        self._queues: list[Queue] | None = None

    def forget(self) -> None:
        """Discard the cached queues."""
        self._read_at = -CACHE_SECONDS

    def read(self, url: str) -> list[Queue] | None:
        """Return the queues of the virtual host, or None if the management API is unavailable."""
        with self._lock:
            if time.monotonic() - self._read_at >= CACHE_SECONDS:
                self._queues = _request(url)
                self._read_at = time.monotonic()
            return self._queues


_reader = QueueReader()


def queues() -> list[Queue] | None:
    """Return the queues of our virtual host; None if the management API is unavailable or not configured."""
    url = settings().rabbitmq_management_url
    return _reader.read(url) if url else None


def forget() -> None:
    """Discard the cached queues."""
    _reader.forget()


def is_configured() -> bool:
    """Return whether a management API is configured."""
    return settings().rabbitmq_management_url is not None


def _request(url: str) -> list[Queue] | None:
    virtual_host = unquote(urlsplit(settings().rabbitmq_url.split(";")[0].strip()).path[1:]) or "/"
    try:
        with bounded_http.session() as session:
            response = session.get(
                f"{url}/api/queues/{quote(virtual_host, safe='')}", params={"columns": COLUMNS}, timeout=TIMEOUT_SECONDS
            )
        response.raise_for_status()
        return [Queue(queue["name"], queue.get("messages", 0), queue.get("consumers", 0)) for queue in response.json()]
    except (requests.RequestException, ValueError, KeyError, TypeError) as exc:
        logger.warning("The management API of RabbitMQ is unavailable: {}", type(exc).__name__)
        return None
