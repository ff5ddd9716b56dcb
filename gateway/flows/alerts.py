"""Deliver alerts to the operators' receiver: claim (commit), POST, record (commit).

They are delivered at least once: the work of a process that dies between call and recording is repeated.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache
from http import HTTPStatus
from typing import Any
from uuid import UUID

import requests
import urllib3
from loguru import logger

from gateway import db
from gateway.config import settings
from gateway.domain.shared import alerts
from gateway.domain.shared.alerts import AlertClaim, AlertResult
from gateway.errors import TransientError
from gateway.ids import rfc3339
from gateway.providers import bounded_http
from gateway.telemetry import ALERTS

CONCURRENT_CALLS_MAX = 10
OVERDUE_SECONDS = 60
OVERDUE_MAX = 50
ERROR_BODY_MAX_BYTES = 300
"""The part of an error response that is read and stored. The body of another response is not read."""
NO_RESPONSE = "no response within {} s"
NOT_ATTEMPTED = "not attempted: the receiver did not respond to any of the previous alerts"


class AlertNotDelivered(TransientError):
    """The receiver of alerts did not accept an alert."""

    code = "alert_not_delivered"
    remedy = "Check the receiver. The delivery is tried four times, and the alert is in the log."


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONCURRENT_CALLS_MAX, thread_name_prefix="alert")


def deliver(ids: Sequence[UUID]) -> list[UUID]:
    """Deliver those of `ids` that are not delivered yet; return those to be retried.

    After `ATTEMPTS_MAX` attempts an alert is marked failed, with its last error, and logged. Without a receiver alerts
    are only in the log.
    """
    with db.autocommit() as connection:
        claims = alerts.claim(connection, ids)
    if not claims:
        return []
    url = settings().alert_webhook_url
    if url is None:
        results = [AlertResult(claim.id, "logged") for claim in claims]  # they were logged when they were raised
    else:
        results = [_result(claim, error) for claim, error in _post_all(url, claims)]
    with db.autocommit() as connection:
        alerts.record(connection, results)
    _log(results)
    severities = {claim.id: claim.severity for claim in claims}
    for result in results:
        if result.status != "pending":
            ALERTS.labels(severities[result.id], result.status).inc()
    return [result.id for result in results if result.status == "pending"]


def deliver_overdue(seconds: int = OVERDUE_SECONDS) -> None:
    """Deliver alerts that are older than `seconds`, bypassing broker and relay, which may have caused the alerts."""
    with db.autocommit() as connection:
        ids = alerts.overdue(connection, seconds, OVERDUE_MAX)
    if ids:
        deliver(ids)


def _result(claim: AlertClaim, error: str | None) -> AlertResult:
    if error is None:
        return AlertResult(claim.id, "delivered")
    return AlertResult(claim.id, "pending" if claim.attempts < alerts.ATTEMPTS_MAX else "failed", error)


def _log(results: Sequence[AlertResult]) -> None:
    """Log each failed alert, and together those that will be retried for the same reason."""
    for result in results:
        if result.status == "failed":
            logger.error("alert {} failed after {} attempts: {}", result.id, alerts.ATTEMPTS_MAX, result.error)
    for error, number in Counter(result.error for result in results if result.status == "pending").items():
        logger.warning("{} alerts were not delivered and will be retried: {}", number, error)


def _post_all(url: str, claims: Sequence[AlertClaim]) -> Iterator[tuple[AlertClaim, str | None]]:
    """POST `claims` in groups. When the receiver responds to none of a group, the other groups are not sent.

    A dead receiver therefore delays the queue's other work by one timeout, regardless of the number of alerts.
    """
    limit = settings().alert_timeout_seconds
    responds = True
    for start in range(0, len(claims), CONCURRENT_CALLS_MAX):
        group = claims[start : start + CONCURRENT_CALLS_MAX]
        if not responds:
            yield from ((claim, NOT_ATTEMPTED) for claim in group)
            continue
        calls: dict[Future[tuple[bool, str | None]], AlertClaim] = {
            _threads().submit(copy_context().run, _post, url, claim, limit): claim for claim in group
        }
        ended, late = wait(calls, timeout=limit)
        for call in late:
            call.cancel()  # if it has not begun; the others end by their own timeouts
        responds = any(call.result()[0] for call in ended)
        for call, claim in calls.items():
            yield claim, call.result()[1] if call in ended else NO_RESPONSE.format(limit)


def _post(url: str, claim: AlertClaim, timeout_seconds: int) -> tuple[bool, str | None]:
    """POST one alert; return whether the receiver responded, and the reason if it did not accept the alert."""
    try:
        with (
            bounded_http.session() as session,
            session.post(
                url, json=_body(claim), timeout=timeout_seconds, allow_redirects=False, stream=True
            ) as response,
        ):
            if HTTPStatus.OK <= response.status_code < HTTPStatus.MULTIPLE_CHOICES:
                return True, None
            return True, _error_of(response)
    except requests.Timeout:
        return False, NO_RESPONSE.format(timeout_seconds)
    except (requests.RequestException, OSError) as exc:
        return False, _cause(exc)


def _body(claim: AlertClaim) -> dict[str, Any]:
    return {
        "service": settings().log_service_name,
        "severity": claim.severity,
        "message": claim.message,
        "details": claim.details,
        "timestamp": rfc3339(claim.created_at),
    }


def _error_of(response: requests.Response) -> str:
    try:
        body = response.raw.read(ERROR_BODY_MAX_BYTES, decode_content=True)
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    shown = " ".join(body.decode("utf-8", "replace").replace("\x00", "").split())
    return f"HTTP {response.status_code}: {shown}" if shown else f"HTTP {response.status_code}"


def _cause(exc: BaseException) -> str:
    """Describe an error without the URL, which may contain the receiver's secret."""
    root = exc
    while root.__context__ is not None:
        root = root.__context__
    return f"{type(exc).__name__}: {root}" if root is not exc and str(root) else type(exc).__name__
