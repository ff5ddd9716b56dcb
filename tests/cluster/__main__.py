"""Run the scenario against the stack of GATEWAY_STACK, which `make cluster` starts."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import requests

import celeryconfig
from devstack.servers.cluster import NODES
from tests.chaos import checks
from tests.chaos.load import Load
from tests.cluster.stack import ClusterStack
from tests.end_to_end.client import Client, log_in
from tests.helpers.waiting import eventually

SEED = 1
PAYMENTS_PER_SECOND = 5
LONGEST_RUN_SECONDS = 900
BROKEN_QUEUE = "settlement.requested"
"""The queue whose leader is killed."""
DURING, BETWEEN = 50, 50
"""Settlements to wait for while a node is stopped, and after its restart."""
RESUME_LIMIT_SECONDS = 30.0
RETURN_SECONDS = 120.0
"""Time for a node to boot and its queue members to catch up on a machine with two busy cores."""
P99_LIMIT_SECONDS = 1.0
FINISH_SECONDS = 0.0
RECONNECT_SECONDS = 60.0
WORKERS = frozenset({"route", "settle", "operations"})
CONSUMED = [queue.name for queue in (*celeryconfig.WORK_QUEUES, *celeryconfig.DEAD_LETTER_QUEUES)]


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of the scenario, and the longest time without a settlement in it."""

    what: str
    stopped_seconds: float
    pause_seconds: float


class Run:
    """One run: load, nodes that stop and restart, drain, checks."""

    def __init__(self, stack: ClusterStack) -> None:
        self.stack = stack
        self.phases: list[Phase] = []
        self._began = time.monotonic()
        merchant = stack.found()["merchant"]
        self.client: Client = log_in(stack.api_url, merchant["email"], merchant["password"])
        token = str(self.client.session.headers["Authorization"]).removeprefix("Bearer ")
        payments = PAYMENTS_PER_SECOND * LONGEST_RUN_SECONDS
        self.load = Load(stack.api_url, token, payments, LONGEST_RUN_SECONDS, SEED)

    def print_line(self, text: str) -> None:
        """Print a line with the time since the start."""
        sys.stdout.write(f"{time.monotonic() - self._began:6.1f} s  {text}\n")
        sys.stdout.flush()

    def carry_out(self) -> checks.Verdict:
        """Run everything from the first payment to the checks."""
        incomplete = self.stack.incomplete_queues()
        assert incomplete == {}, f"declared with fewer than {len(NODES)} members: {incomplete}"
        self.load.start()
        self._settle_more(BETWEEN)
        for _ in range(2):
            self._lose(self.stack.queue_leader(BROKEN_QUEUE), by=signal.SIGKILL)
        for node in NODES:
            self._lose(node, by=signal.SIGTERM)
        self._lose_majority()
        self.load.finish(FINISH_SECONDS)
        self.print_line(f"{len(self.load.log.accepted)} payments accepted; draining")
        seconds = checks.drain(self.stack)
        verdict = checks.check(self.stack, self.load.log)
        verdict.drain_seconds = seconds
        verdict.failures += self._not_connected()
        if verdict.dead_unexpected:
            verdict.failures.append(f"{verdict.dead_unexpected} dead letters without a reason")
        return verdict

    def _lose(self, node: str, by: signal.Signals) -> None:
        """Stop one node, post and settle payments without it, and restart it."""
        leads, connected = self.stack.leaders()[node], self.stack.connections()[node]
        what = f"{by.name} to {node}, leader of {leads} queues, {connected} connections"
        self.print_line(what)
        begin = time.time()
        with self.stack.stopped(node, by=by):
            self._settle_more(DURING)
            leader = self.stack.queue_leader(BROKEN_QUEUE)
            assert leader != node, f"{node} is stopped, but still leads {BROKEN_QUEUE}"
            stopped = time.time() - begin
            self.print_line(f"settling without it for {stopped:.0f} s, {leader} leads {BROKEN_QUEUE}")
        self._complete_again()
        self._settle_more(BETWEEN)
        self.phases.append(Phase(what, stopped, self.stack.longest_pause(begin, time.time())))

    def _lose_majority(self) -> None:
        """Kill two of three nodes: payments are accepted, but none is routed until the nodes run again."""
        first = self.stack.queue_leader(BROKEN_QUEUE)
        second = next(node for node in NODES if node != first)
        what = f"SIGKILL to {first} and {second}"
        self.print_line(what)
        begin = time.time()
        with self.stack.stopped(first, second, by=signal.SIGKILL):
            accepted = len(self.load.log.accepted)
            self._until(lambda: len(self.load.log.accepted) >= accepted + DURING, "payments without a broker")
            with self.stack.database() as connection:
                [[waiting]] = connection.execute("SELECT count(*) FROM outbox").fetchall()
            assert waiting, "the outbox is empty, although no queue accepts messages"
            stopped = time.time() - begin
            self.print_line(f"{waiting} are in the outbox after {stopped:.0f} s")
        back = self._complete_again()
        self._settle_more(BETWEEN)
        self.phases.append(Phase(f"{what}, after their restart", stopped, self.stack.longest_pause(back, time.time())))

    def _settle_more(self, number: int) -> None:
        before = self.stack.settled()
        self._until(lambda: self.stack.settled() >= before + number, f"{number} settlements")

    def _complete_again(self) -> float:
        """Wait until the cluster is complete; return when all nodes were running (seconds since the epoch)."""
        self._until(lambda: self.stack.running_nodes() == set(NODES), "all nodes")
        back = time.time()
        self._until(lambda: self.stack.incomplete_queues() == {}, "all members of the queues")
        self.print_line("all nodes run, and every queue has all of its members")
        return back

    def _until(self, probe: Callable[[], bool], what: str) -> None:
        assert not self.load.ended, f"the run takes longer than the load ({LONGEST_RUN_SECONDS} s)"
        eventually(probe, within=RETURN_SECONDS, what=what)

    def _not_connected(self) -> list[str]:
        """Return the failed checks of connections: workers, monitor, Flower, relay."""
        payment = self.client.pay()["id"]
        checks: dict[str, Callable[[], bool]] = {
            "a consumer on every queue": lambda: not self.stack.unconsumed(CONSUMED),
            "Flower and all workers": lambda: self.stack.workers_of_flower() >= WORKERS,
            "another payment": lambda: self.client.transaction(payment)["status"] == "completed",
            "all nodes": lambda: self.stack.running_nodes() == set(NODES),
            "all members": lambda: self.stack.incomplete_queues() == {},
        }
        failures = []
        for what, check in checks.items():
            try:
                eventually(check, within=RECONNECT_SECONDS, what=what)
            except AssertionError as exc:
                failures.append(str(exc))
        return failures


def report(run: Run, verdict: checks.Verdict) -> None:
    """Print the table, and add failures of time limits."""
    seconds = sorted(sent.seconds for sent in run.load.log.requests)
    p50, p99 = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]
    other = sum(sent.status != 201 for sent in run.load.log.requests)
    rows = [(phase.what, f"settling paused {phase.pause_seconds:.1f} s") for phase in run.phases]
    rows += [
        ("payments accepted (201)", str(len(run.load.log.accepted))),
        ("requests with another response", str(other)),
        ("lost", str(len(verdict.lost))),
        ("settled twice", str(len(verdict.settled_twice))),
        ("charged twice", str(len(verdict.charged_twice))),
        ("dead letters, expected / unexpected", f"{verdict.dead_expected} / {verdict.dead_unexpected}"),
        ("statuses", ", ".join(f"{name} {number}" for name, number in sorted(verdict.statuses.items()))),
        ("POST p50 / p99", f"{p50 * 1000:.0f} ms / {p99 * 1000:.0f} ms"),
        ("drained in", f"{verdict.drain_seconds:.0f} s"),
        ("connections at the end", ", ".join(f"{node} {n}" for node, n in sorted(run.stack.connections().items()))),
    ]
    for name, value in rows:
        run.print_line(f"{name:<75} {value}")
    verdict.failures += [
        f"settling paused for {phase.pause_seconds:.1f} s: {phase.what}"
        for phase in run.phases
        if phase.pause_seconds > RESUME_LIMIT_SECONDS
    ]
    if p99 > P99_LIMIT_SECONDS:
        verdict.failures.append(f"p99 of POST was {p99:.2f} s")


def main() -> int:
    """Run and report; return 1 if a promise was broken."""
    run = Run(ClusterStack(Path(os.environ["GATEWAY_STACK"])))
    verdict = run.carry_out()
    report(run, verdict)
    for failure in verdict.failures:
        run.print_line(f"BROKEN: {failure}")
    run.print_line("every promise was kept" if not verdict.failures else "see the logs of the roles")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (AssertionError, TimeoutError, requests.RequestException, psycopg.Error) as error:
        sys.stdout.write(f"BROKEN: {type(error).__name__}: {error}\n")
        sys.exit(1)
