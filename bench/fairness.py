"""Measure how one merchant's backlog affects another merchant (docs/fairness.md): A alone, then B beside A."""

import statistics
import time
from dataclasses import replace
from uuid import uuid4

import requests

from bench import phases
from bench.client import Responses
from bench.phases import Figures
from bench.running_side import Running
from devstack import stackfile
from devstack.terminal import DevstackError, info
from devstack.waiting import pause

BACKLOGS = {"tok_slow": (1, "take the provider 2 s"), "tok_error_always": (3, "fail at each of 4 attempts")}
"""By payment method: the factor by which the number of payments is multiplied, and what these payments do."""
_HTTP_SECONDS = 30
_POLL_SECONDS = 0.2
_STALL_SECONDS = 60.0
_UNFINISHED = "SELECT count(*) FROM transactions WHERE id = ANY(%s::uuid[]) AND status IN ('pending', 'processing')"


def measure(on: Running, payments: int, seconds: float) -> Figures:
    """Settle A's payments alone; then measure B's, 20 per second, while A has a backlog of each kind."""
    other = replace(on, token=_another_merchant(on))
    responses = on.post("alone", clients=phases.CLIENTS, payments=payments // 2, payment_method="tok_slow")
    on.settle_all(responses)
    took = float(on.value(phases.LAST_SETTLED)) - responses.began
    figures: Figures = {"A alone, payments that take the provider 2 s: settled/s": len(responses.ids) / took}
    for token, (times, what) in BACKLOGS.items():
        waiting = on.post(f"backlog-{token}", clients=phases.CLIENTS, payments=times * payments, payment_method=token)
        before = on.value(_UNFINISHED, waiting.ids)
        beside = other.post(
            f"beside-{token}",
            clients=phases.CLIENTS,
            payments=int(phases.LATENCY_RATE * seconds),
            rate=phases.LATENCY_RATE,
        )
        left = on.value(_UNFINISHED, waiting.ids)
        _finish(on, waiting)
        other.settle_all(beside)
        milliseconds = on.column(phases.MILLISECONDS, beside.ids)
        p50, p99 = statistics.median(milliseconds), phases.percentile(milliseconds, 0.99)
        figures |= {
            f"B beside A's {len(waiting.ids)} that {what}: p50, ms": p50,
            f"B beside A's {len(waiting.ids)} that {what}: p99, ms": p99,
            f"  of these waiting at B's first one ({token})": before,
            f"  of these waiting after B's last one ({token})": left,
        }
        info(f"B settled after {p50:.0f} ms, p99 {p99:.0f} ms, while A's payments {what}; {left} of these left")
    return figures


def _another_merchant(on: Running) -> str:
    """Register a merchant without payments; return its access token."""
    body = {"email": f"{uuid4().hex}@example.com", "password": uuid4().hex, "business_name": "B"}
    url = f"{stackfile.api_url(on.servers.layout)}/auth/register"
    response = requests.post(url, json=body, timeout=_HTTP_SECONDS)
    response.raise_for_status()
    token: str = response.json()["access_token"]
    return token


def _finish(on: Running, responses: Responses) -> None:
    """Wait until each payment has an outcome."""
    left, moved = -1, time.monotonic()
    while now := on.value(_UNFINISHED, responses.ids):
        if now != left:
            left, moved = now, time.monotonic()
        if time.monotonic() - moved > _STALL_SECONDS:
            raise DevstackError(f"{now} of {len(responses.ids)} payments have no outcome")
        pause(_POLL_SECONDS)
