"""Flower with a password for `/metrics` as for its pages: `python -m tasks.flower --port=5555`.

Flower itself serves `/metrics` without authentication (mher/flower#1342), and a test fails when it no longer does. The
options and variables (`FLOWER_…`) are those of `celery -A tasks flower`, which also works, with public metrics.
"""

import atexit
import contextlib
import logging
import signal
import sys

from flower import command
from flower.app import Flower
from flower.urls import settings
from flower.views.monitor import Metrics
from tornado.options import options
from tornado.web import authenticated

from tasks import app

_logger = logging.getLogger("flower")


class ProtectedMetrics(Metrics):  # type: ignore[misc]  # Flower has no types
    """Flower's metrics for authenticated users only."""

    @authenticated
    async def get(self) -> None:
        """Return Flower's metrics."""
        await super().get()


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    command.apply_env_options()
    command.apply_options(sys.argv[0], arguments)
    command.extract_settings()
    command.setup_logging()
    if not (options.basic_auth or options.auth):
        _logger.warning("Flower is accessible without a password: set FLOWER_BASIC_AUTH=user:password")
    served = Flower(capp=app, options=options, **settings)
    prefix = (options.url_prefix or "").strip("/")
    # Added handlers take precedence over those of the constructor.
    served.add_handlers(r".*", [(f"/{prefix}/metrics" if prefix else "/metrics", ProtectedMetrics)])
    atexit.register(served.stop)
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    command.print_banner(app, "ssl_options" in settings, served.start_http_server())
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        served.start()


if __name__ == "__main__":
    main(sys.argv[1:])
