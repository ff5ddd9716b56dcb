"""The phases of a measurement. Each ends when all of its payments are settled."""

import statistics
import time
from typing import Any

from bench import usage
from bench.client import Responses
from bench.running_side import Running
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
    """Return the value below which this share of `values` lies, or 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def warm_up(on: Running, payments: int) -> None:
    """Let every process open its connections and compile its queries."""
    on.settle_all(on.post("warm", clients=CLIENTS, payments=payments))


def load(on: Running, seconds: float) -> Figures:
    """Post for this time with all roles running; the processor time is measured until all payments are settled."""
    before, machine, began = on.meter.read(), usage.machine_seconds() - time.process_time(), time.monotonic()
    responses = on.post("load", clients=CLIENTS, seconds=seconds)
    memory = on.meter.memory()
    during = on.value(_SETTLED_BETWEEN, responses.began, responses.ended)
    on.settle_all(responses)
    cpu = usage.spent(before, on.meter.read())
    foreign = usage.machine_seconds() - time.process_time() - machine - sum(cpu.values()) - responses.cpu_seconds
    count, took = len(responses.ids), responses.ended - responses.began
    figures = {
        "post_per_second": count / took,
        "post_p50_ms": statistics.median(responses.milliseconds),
        "post_p99_ms": percentile(responses.milliseconds, 0.99),
        "settled_per_second_under_load": during / took,
        "cpu_ms_per_settled": sum(cpu.values()) * 1000 / count,
        "cpu_ms_by_role": {role: seconds * 1000 / count for role, seconds in cpu.items()},
        "memory_mib_by_role": memory,
        "memory_mib": sum(memory.values()),
        "client_cpu_percent": 100 * responses.cpu_seconds / took,
        "foreign_cpu_percent": 100 * foreign / (time.monotonic() - began),
        "payments": count,
    }
    info(
        f"{on.side.name}: {figures['post_per_second']:.0f} POST/s, p99 {figures['post_p99_ms']:.0f} ms,"
        f" {figures['settled_per_second_under_load']:.0f} settled/s meanwhile,"
        f" {figures['cpu_ms_per_settled']:.2f} CPU ms each"
    )
    return figures


def latency(on: Running, seconds: float) -> Figures:
    """Post 20 per second; measure the time from each acceptance to the commit of its settlement."""
    responses = on.post("latency", clients=CLIENTS, payments=int(LATENCY_RATE * seconds), rate=LATENCY_RATE)
    on.settle_all(responses)
    milliseconds = on.column(MILLISECONDS, responses.ids)
    figures = {
        "settle_p50_ms": statistics.median(milliseconds),
        "settle_p99_ms": percentile(milliseconds, 0.99),
        "calm_post_p50_ms": statistics.median(responses.milliseconds),
        "calm_post_p99_ms": percentile(responses.milliseconds, 0.99),
    }
    info(f"{on.side.name}: settled after {figures['settle_p50_ms']:.1f} ms, p99 {figures['settle_p99_ms']:.1f} ms")
    return figures


def drain(on: Running, payments: int) -> Figures:
    """Publish this number of payments while the workers are paused; measure from their start to the last settlement."""
    responses, took = _drained(on, "drain", payments)
    figures = {
        "drained_per_second": payments / took,
        "post_per_second_workers_held": payments / (responses.ended - responses.began),
        "drain_payments": payments,
    }
    info(f"{on.side.name}: {payments} drained, {figures['drained_per_second']:.0f} settled/s")
    return figures


def slow_provider(on: Running, payments: int) -> Figures:
    """Measure `drain` with the provider over HTTP."""
    _, took = _drained(on, "provider", payments)
    figures = {"provider_settled_per_second": payments / took, "provider_payments": payments}
    info(f"{on.side.name}: {figures['provider_settled_per_second']:.0f} settled/s with the slow provider")
    return figures


def _drained(on: Running, name: str, payments: int) -> tuple[Responses, float]:
    with on.workers_paused():
        responses = on.post(name, clients=CLIENTS, payments=payments)
        on.wait_until_published()
        began = time.time()
    on.settle_all(responses)
    return responses, float(on.value(LAST_SETTLED)) - began
