"""`make bench`: measure both sides in turn on the same servers, and print a table."""

import os
from dataclasses import asdict, dataclass, replace

from bench import fairness, fill, phases, sides, volume
from bench.phases import Figures
from bench.report import GROWN, Measurements
from bench.running_side import PaymentsLost, running
from bench.sides import Servers, Side
from devstack import supervisor
from devstack.servers import server_users
from devstack.settings import BENCH_DIR, BENCH_PORT_BASE, environment, layout
from devstack.terminal import info, print_error

RESULT_FILE = "bench.json"
WARM_UP = 300
_FOREIGN = ("DATABASE_URL", "RABBITMQ_URL", "BROKER_URL", "RABBITMQ_MANAGEMENT_URL", "ALERT_WEBHOOK_URL")


@dataclass(frozen=True, slots=True)
class Amounts:
    """The size of each phase in seconds or payments. A shorter backlog saves time with the slower side."""

    rounds: int
    load_seconds: float
    latency_seconds: float
    drain: int
    drain_baseline: int
    provider: int
    provider_baseline: int
    reconcile: int
    other_merchants_backlog: int
    beside_backlog_seconds: float
    growth: int = 0


FULL = Amounts(
    rounds=3,
    load_seconds=15,
    latency_seconds=30,
    drain=20_000,
    drain_baseline=20_000,
    provider=3_000,
    provider_baseline=400,
    reconcile=1_000_000,
    other_merchants_backlog=3_000,
    beside_backlog_seconds=10,
)
QUICK = Amounts(
    rounds=1,
    load_seconds=5,
    latency_seconds=5,
    drain=5_000,
    drain_baseline=1_000,
    provider=1_000,
    provider_baseline=120,
    reconcile=100_000,
    other_merchants_backlog=1_600,
    beside_backlog_seconds=5,
)


def amounts() -> Amounts:
    """Return the amounts for QUICK, ROUNDS and GROWTH."""
    chosen = asdict(QUICK if os.environ.get("QUICK", "0") not in {"", "0"} else FULL)
    chosen["rounds"] = int(os.environ.get("ROUNDS") or chosen["rounds"])
    growth = int(os.environ.get("GROWTH") or 0)
    chosen["growth"] = fill.COUNT_MAX if growth == 1 else growth
    return Amounts(**chosen)


def main() -> int:
    """Run the benchmark; return 1 if an accepted payment was lost. No figure makes it fail."""
    own, caller = layout(BENCH_DIR, BENCH_PORT_BASE), environment(dotenv=False)
    for name in _FOREIGN:
        caller.pop(name, None)
    caller.setdefault("API_WORKERS", str(os.cpu_count() or 1))  # one per processor, on both sides
    wanted = amounts()
    result = Measurements(asdict(wanted))
    with supervisor.supervised(own):
        server_users.delete_data(own)
        own.prepare()
        with sides.servers(own, caller) as servers:
            try:
                _compare(servers, wanted, result)
                _measure_fairness(servers, wanted, result)
                _grow(servers, wanted, result)
            except PaymentsLost as lost:
                print_error(str(lost))
                return 1
    result.show()
    result.save(own.home / RESULT_FILE)
    return 0


def _compare(servers: Servers, wanted: Amounts, result: Measurements) -> None:
    """Measure the rounds. In each, the sides take turns at every part.

    Thus the turns at one part are a minute apart, not six: the speed of a shared machine changes with time.
    """
    pair = sides.baseline(servers), sides.gateway(servers)
    for number in range(1, wanted.rounds + 1):
        figures_of: dict[str, Figures] = {side.name: {} for side in pair}
        for part in (_load, _backlog, _provider):
            for side in pair:
                info(f"round {number} of {wanted.rounds}: {side.name}")
                servers.clean_up()
                figures_of[side.name] |= part(servers, side, f"{number}", wanted)
        for side in pair:
            result.rounds[side.name].append(figures_of[side.name])


def _measure_fairness(servers: Servers, wanted: Amounts, result: Measurements) -> None:
    """Measure how one merchant's backlog affects another merchant; the plain pipeline has no merchants."""
    with running(sides.gateway(servers), servers, "fair") as on:
        phases.warm_up(on, WARM_UP)
        figures = fairness.measure(on, wanted.other_merchants_backlog, wanted.beside_backlog_seconds)
    result.extra["two merchants"] = figures


def _grow(servers: Servers, wanted: Amounts, result: Measurements) -> None:
    """Measure with many rows, after the rounds, which they would slow down. They are copies of a settled payment.

    The copies are months old and go into an empty database, because ids that follow those of newer payments would not
    ascend.
    """
    sides.delete_payments(servers)
    side = sides.gateway(servers)
    with running(side, servers, "first") as on:
        phases.warm_up(on, WARM_UP // 10)
    result.extra["reconciliation"] = volume.reconciliation(servers, side, wanted.reconcile)
    if not wanted.growth:
        return
    fill.fill(volume.superuser_url(servers), wanted.growth, present=wanted.reconcile)
    title = f"with {wanted.growth:,} settled payments in the tables"
    with running(side, servers, "grown") as on:
        phases.warm_up(on, WARM_UP)
        for number in range(max(1, wanted.rounds)):
            again = replace(on, round=f"grown-{number}")
            result.rounds[GROWN].append(phases.load(again, wanted.load_seconds) | phases.drain(again, wanted.drain))
        result.extra[title] = volume.growth(result) | volume.reads(on)


def _load(servers: Servers, side: Side, name: str, wanted: Amounts) -> Figures:
    with running(side, servers, f"{name}a") as on:
        phases.warm_up(on, WARM_UP)
        figures = phases.latency(on, wanted.latency_seconds)  # first: the load leaves one side five times as many rows
        return figures | phases.load(on, wanted.load_seconds)


def _backlog(servers: Servers, side: Side, name: str, wanted: Amounts) -> Figures:
    with running(side, servers, f"{name}b") as on:
        phases.warm_up(on, WARM_UP)
        return phases.drain(on, wanted.drain_baseline if side.name == sides.BASELINE else wanted.drain)


def _provider(servers: Servers, side: Side, name: str, wanted: Amounts) -> Figures:
    with running(sides.with_acquirer(side, servers.layout), servers, f"{name}c") as on:
        phases.warm_up(on, WARM_UP // 10)
        return phases.slow_provider(on, wanted.provider_baseline if side.name == sides.BASELINE else wanted.provider)
