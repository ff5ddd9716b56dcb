"""Measure with many rows: a reconciliation of a million payments, and the gateway with ten million in its tables."""

import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

from bench import fill, phases, sides
from bench.phases import Figures
from bench.report import GROWN, Measurements
from bench.running_side import Running
from bench.sides import Servers, Side
from devstack import stackfile
from devstack.bootstrap import ROOT
from devstack.servers import postgres
from devstack.terminal import DevstackError, info
from devstack.waiting import pause

RUNS = 3
RECONCILE_LIMIT_SECONDS = 1_800
REQUESTS = 200
READ_SECONDS = 5.0
"""Limit for one kind of read; slow ones get fewer than `REQUESTS` requests."""
_HTTP_SECONDS = 30
GROWING = {
    "post_per_second": "POST per second",
    "settled_per_second_under_load": "settled per second under load",
    "drained_per_second": "drained per second",
}
READS = {
    "list": "/v1/transactions?limit=100",
    "list, next page": "/v1/transactions?limit=100&cursor={cursor}",
    "filter by status": "/v1/transactions?status=completed",
    "filter by a rare status": "/v1/transactions?status=failed",
    "filter by currency": "/v1/transactions?currency=CHF",
    "filter by reference": "/v1/transactions?reference=copy-4711",
    "filter by customer": "/v1/transactions?customer_id=cus_77",
    "filter by amount": "/v1/transactions?amount_min=999999",
    "filter by time": "/v1/transactions?created_from={day}&created_to={next_day}",
    "one transaction": "/v1/transactions/{id}",
    "timeline": "/v1/transactions/{id}/timeline",
    "settlements": "/v1/settlements?limit=100",
    "settlement of a transaction": "/v1/settlements?transaction_id={id}",
    "refunds": "/v1/refunds",
    "events": "/v1/events?limit=100",
    "balance": "/v1/balance",
}
OPERATOR_READS = {
    "dead letters": "/v1/dead-letters?limit=100",
    "dead letters that are open": "/v1/dead-letters?status=open&limit=100",
    "dead letters of a queue": "/v1/dead-letters?queue=transaction.created",
    "dead letters by time": "/v1/dead-letters?dead_lettered_to={day}",
    "discrepancies": "/v1/discrepancies?limit=100",
}


def superuser_url(servers: Servers) -> str:
    """Return the URL of the gateway's database for PostgreSQL's superuser."""
    return postgres.url(servers.layout, postgres.SUPERUSER).replace("+psycopg", "")


def reconciliation(servers: Servers, side: Side, payments: int) -> Figures:
    """Reconcile this number of settled payments, of which some have mismatches."""
    fill.fill(superuser_url(servers), payments)
    mismatches = fill.make_mismatches(superuser_url(servers))
    runs = [_reconcile(side) for _ in range(RUNS)]
    counts = runs[0]["counts"]
    seconds = statistics.median(run["seconds"] for run in runs)
    pairs = counts["transactions"] + counts["settlements"]
    figures: Figures = {
        "transactions": counts["transactions"],
        "settlements": counts["settlements"],
        "ledger entries": counts["ledger_entries"],
        "mismatches made": mismatches,
        "mismatches found": sum(counts["discrepancies"].values()),
        "seconds, median": seconds,
        "transactions and settlements per second": pairs / seconds,
        "rows per second, ledger entries included": (pairs + counts["ledger_entries"]) / seconds,
        "client memory above idle, MiB": max(run["memory_above_idle_mib"] for run in runs),
    }
    info(f"reconciliation: {figures['transactions and settlements per second']:,.0f} transactions and settlements/s")
    return figures


def _reconcile(side: Side) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.reconcile_once"],
        check=False,
        cwd=ROOT,
        env=dict(side.env),
        capture_output=True,
        text=True,
        timeout=RECONCILE_LIMIT_SECONDS,
    )
    if done.returncode:
        raise DevstackError(f"the reconciliation failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def growth(result: Measurements) -> Figures:
    """Return by how many per cent of the medians the gateway became slower; negative if it became faster."""
    slower: Figures = {}
    for key, title in GROWING.items():
        before, grown = result.median("gateway", key), result.median(GROWN, key)
        if before and grown:
            slower[f"{title}: slower by, %"] = round(100 * (1 - grown / before), 1)
            slower[f"{title}, median of {len(result.values(GROWN, key))}"] = grown
    return slower


def reads(on: Running) -> Figures:
    """Return the p99 of each kind of read in milliseconds, measured one after the other over one connection."""
    url = stackfile.api_url(on.servers.layout)
    merchant, operator = _session(on.token), _session(sides.operator_token(on.side, on.servers.layout))
    page = merchant.get(f"{url}/v1/transactions?limit=100", timeout=_HTTP_SECONDS).json()
    day, next_day = (f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT00:00:00Z}" for days in (46, 45))
    known = {"cursor": page["next_cursor"], "id": page["data"][-1]["id"], "day": day, "next_day": next_day}
    found: Figures = {}
    for session, paths in ((merchant, READS), (operator, OPERATOR_READS)):
        for title, path in paths.items():
            found[f"{title}: p99, ms"] = p99 = _read(session, url + path.format(**known))
            info(f"{title}: p99 {p99:.1f} ms")
    return found


def _session(token: str) -> requests.Session:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    return session


def _read(session: requests.Session, url: str) -> float:
    session.get(url, timeout=_HTTP_SECONDS).raise_for_status()
    milliseconds: list[float] = []
    deadline = time.perf_counter() + READ_SECONDS
    while len(milliseconds) < REQUESTS and time.perf_counter() < deadline:
        pause(0)  # handles Ctrl-C
        began = time.perf_counter()
        session.get(url, timeout=_HTTP_SECONDS).raise_for_status()
        milliseconds.append((time.perf_counter() - began) * 1000)
    return phases.percentile(milliseconds, 0.99)
