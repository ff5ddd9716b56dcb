"""Clocks: the time of schedules, and the alert for a wrong clock of a host. Each process checks its own host."""

import socket
from contextlib import suppress
from datetime import datetime
from threading import Thread
from zoneinfo import ZoneInfo

from gateway import db
from gateway.clock import OFFSET_SECONDS, database_clock, describe
from gateway.config import settings
from gateway.domain.shared import alerts
from gateway.ids import utc_now

ALERT_PAUSE_SECONDS = 3600
WAIT_SECONDS = 30.0


def scheduling_time() -> datetime:
    """Return the database's time in the time zone of the schedule, for a process without other database access.

    The first call waits for the database; later calls extrapolate while it is unavailable.
    """
    while not database_clock.is_known():
        db.wait_until_available(WAIT_SECONDS)
    if database_clock.is_due():
        with suppress(*db.UNAVAILABLE):
            db.measure_time()
    return utc_now().astimezone(ZoneInfo(settings().reconciliation_time_zone))


def watch() -> None:
    """Raise an alert when this process measures that the clock of its host is wrong."""
    database_clock.on_offset(_alert_soon)


def _alert_soon(offset: float) -> None:
    # The measuring thread is about to use its connection, which may be the only one of the pool.
    Thread(target=_alert, args=(offset,), name="clock-alert", daemon=True).start()


def _alert(offset: float) -> None:
    with suppress(*db.UNAVAILABLE):  # the next measurement retries
        alert_of_offset(offset)


def alert_of_offset(offset: float) -> None:
    """Raise the alert that the clock of this host is wrong: one per host in `ALERT_PAUSE_SECONDS`."""
    limit = settings().clock_offset_max_seconds
    severe = abs(offset) > limit
    consequence = "The API here is not ready." if severe else f"Above {limit} s the API here is not ready."
    host = socket.gethostname()
    with db.begin() as connection:
        alerts.raise_once(
            connection,
            ALERT_PAUSE_SECONDS,
            "error" if severe else "warning",
            f"{host}: {describe(offset)} {consequence}",
            {
                "kind": "clock_far_off" if severe else "clock_off",
                "subject": host,
                "offset_seconds": round(offset, 1),
                "allowed_seconds": OFFSET_SECONDS,
            },
        )
