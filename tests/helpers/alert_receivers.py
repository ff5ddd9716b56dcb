"""Receivers of alerts, and the gateway's settings for them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.cli.alert_receiver import Received, create_receiver
from gateway.config import settings
from tests.helpers.http_servers import served


@contextmanager
def receiving(on_alert: Callable[[Received], None], fail_with: int | None = None) -> Iterator[str]:
    """Run the development receiver of alerts, which passes each alert to `on_alert`; yield its URL."""
    with served(create_receiver(fail_with=fail_with, on_alert=on_alert)) as url:
        yield url


@contextmanager
def alerts_sent_to(url: str | None, timeout_seconds: int = 10) -> Iterator[None]:
    """Set this URL as the receiver of alerts within the block."""
    wanted = {"ALERT_WEBHOOK_URL": url or "", "ALERT_TIMEOUT_SECONDS": str(timeout_seconds)}
    os.environ.update(wanted)
    settings.cache_clear()
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]
        settings.cache_clear()
