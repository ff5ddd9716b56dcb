"""What is measured of a side that is up. Each phase leaves nothing unsettled behind."""

import statistics
import time
from typing import Any

from bench import usage
from bench.client import Seen
from bench.running import Running
from devstack.terminal import info

CLIENTS = 16
LATENCY_RATE = 20.0
Figures = dict[str, Any]

_SETTLED_BETWEEN = "SELECT count(*) FROM settlements WHERE settled_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)"
LAST_SETTLED = "SELECT extract(epoch FROM max(settled_at))::float8 FROM settlements"
MILLISECONDS = """
    SELECT extract(epoch FROM pg_xact_commit_timestamp(s.xmin) - t.created_at)::float8 * 1000
    FROM transactions t JOIN settlements s ON s.transaction_id = t.id WHERE t.id = ANY(%s::uuid[])
"""


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of `values` lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def warm_up(on: Running, payments: int) -> None:
    """Let every process open its connections and compile its queries."""
    on.settle_all(on.post("warm", clients=CLIENTS, payments=payments))


def load(on: Running, seconds: float) -> Figures:
    """Post for so long with all roles running; processor time counts until the last of it is settled."""
    before, machine, began = on.meter.read(), usage.machine_seconds() - time.process_time(), time.monotonic()
    seen = on.post("load", clients=CLIENTS, seconds=seconds)
    memory = on.meter.memory()
    during = on.value(_SETTLED_BETWEEN, seen.began, seen.ended)
    on.settle_all(seen)
    cpu = usage.spent(before, on.meter.read())
    foreign = usage.machine_seconds() - time.process_time() - machine - sum(cpu.values()) - seen.cpu_seconds
    count, took = len(seen.ids), seen.ended - seen.began
    figures = {
        "post_per_second": count / took,
        "post_p50_ms": statistics.median(seen.milliseconds),
        "post_p99_ms": percentile(seen.milliseconds, 0.99),
        "settled_per_second_under_load": during / took,
        "cpu_ms_per_settled": sum(cpu.values()) * 1000 / count,
        "cpu_ms_by_role": {role: seconds * 1000 / count for role, seconds in cpu.items()},
        "memory_mib_by_role": memory,
        "memory_mib": sum(memory.values()),
        "client_cpu_percent": 100 * seen.cpu_seconds / took,
        "foreign_cpu_percent": 100 * foreign / (time.monotonic() - began),
        "payments": count,
    }
    info(
        f"{on.side.name}: {figures['post_per_second']:.0f} POST/s, p99 {figures['post_p99_ms']:.0f} ms,"
        f" {figures['settled_per_second_under_load']:.0f} settled/s beside it,"
        f" {figures['cpu_ms_per_settled']:.2f} CPU ms each"
    )
    return figures


def latency(on: Running, seconds: float) -> Figures:
    """Post 20 a second, and compare when each was accepted and when its settlement was committed."""
    seen = on.post("latency", clients=CLIENTS, payments=int(LATENCY_RATE * seconds), rate=LATENCY_RATE)
    on.settle_all(seen)
    milliseconds = on.column(MILLISECONDS, seen.ids)
    figures = {
        "settle_p50_ms": statistics.median(milliseconds),
        "settle_p99_ms": percentile(milliseconds, 0.99),
        "calm_post_p50_ms": statistics.median(seen.milliseconds),
        "calm_post_p99_ms": percentile(seen.milliseconds, 0.99),
    }
    info(f"{on.side.name}: settled after {figures['settle_p50_ms']:.1f} ms, p99 {figures['settle_p99_ms']:.1f} ms")
    return figures


def drain(on: Running, payments: int) -> Figures:
    """Let so many published payments wait, then let the workers go: from that moment to the last settlement."""
    seen, took = _drained(on, "drain", payments)
    figures = {
        "drained_per_second": payments / took,
        "post_per_second_workers_held": payments / (seen.ended - seen.began),
        "drain_payments": payments,
    }
    info(f"{on.side.name}: {payments} drained, {figures['drained_per_second']:.0f} settled/s")
    return figures


def slow_provider(on: Running, payments: int) -> Figures:
    """The same with the provider that answers over HTTP."""
    _, took = _drained(on, "provider", payments)
    figures = {"provider_settled_per_second": payments / took, "provider_payments": payments}
    info(f"{on.side.name}: {figures['provider_settled_per_second']:.0f} settled/s with the slow provider")
    return figures


def _drained(on: Running, name: str, payments: int) -> tuple[Seen, float]:
    with on.workers_held():
        seen = on.post(name, clients=CLIENTS, payments=payments)
        on.wait_until_published()
        began = time.time()
    on.settle_all(seen)
    return seen, float(on.value(LAST_SETTLED)) - began
