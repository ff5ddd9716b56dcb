"""What the broker's management API says, asked at most every few seconds: queue lengths and consumers."""

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
    """One queue: messages in it, handed out or not, and who takes them."""

    name: str
    messages: int
    consumers: int


class _Reader:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = -CACHE_SECONDS
        self._queues: list[Queue] | None = None

    def read(self, url: str) -> list[Queue] | None:
        with self._lock:
            if time.monotonic() - self._read_at >= CACHE_SECONDS:
                self._queues = _ask(url)
                self._read_at = time.monotonic()
            return self._queues


_reader = _Reader()


def queues() -> list[Queue] | None:
    """The queues of our virtual host; None when the management API does not answer or is not configured."""
    url = settings().rabbitmq_management_url
    return _reader.read(url) if url else None


def is_configured() -> bool:
    """Whether there is a management API to ask."""
    return settings().rabbitmq_management_url is not None


def _ask(url: str) -> list[Queue] | None:
    virtual_host = unquote(urlsplit(settings().rabbitmq_url.split(";")[0].strip()).path[1:]) or "/"
    try:
        with bounded_http.session() as session:
            answer = session.get(
                f"{url}/api/queues/{quote(virtual_host, safe='')}", params={"columns": COLUMNS}, timeout=TIMEOUT_SECONDS
            )
        answer.raise_for_status()
        return [Queue(queue["name"], queue.get("messages", 0), queue.get("consumers", 0)) for queue in answer.json()]
    except (requests.RequestException, ValueError, KeyError, TypeError) as exc:
        logger.warning("The broker's management API does not answer: {}", type(exc).__name__)
        return None
