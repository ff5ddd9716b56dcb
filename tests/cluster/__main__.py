"""Runs the scenario against the stack of GATEWAY_STACK; `make cluster` brings that stack up first."""

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
from tests.chaos import judge
from tests.chaos.load import Load
from tests.cluster.stack import ClusterStack
from tests.end_to_end.client import Client, log_in
from tests.helpers.waiting import eventually

SEED = 1
PAYMENTS_PER_SECOND = 5
LONGEST_RUN_SECONDS = 900
BROKEN_QUEUE = "settlement.requested"
"""Its leader is what is taken away."""
DURING, BETWEEN = 50, 50
"""Settlements that are waited for while a node is away, and after it is back."""
RESUME_LIMIT_SECONDS = 30.0
RETURN_SECONDS = 120.0
"""For a node to boot, and for its queue members to catch up; a machine with two busy cores is slow."""
P99_LIMIT_SECONDS = 1.0
FINISH_SECONDS = 0.0
RECONNECT_SECONDS = 60.0
WORKERS = frozenset({"route", "settle", "operations"})
CONSUMED = [queue.name for queue in (*celeryconfig.WORK_QUEUES, *celeryconfig.DEAD_LETTER_QUEUES)]


@dataclass(frozen=True, slots=True)
class Phase:
    """What was done, and for how long nothing was settled meanwhile."""

    what: str
    away_seconds: float
    pause_seconds: float


class Run:
    """One run: load, nodes that go and come back, drain, verdict."""

    def __init__(self, stack: ClusterStack) -> None:
        self.stack = stack
        self.phases: list[Phase] = []
        self._began = time.monotonic()
        merchant = stack.found()["merchant"]
        self.client: Client = log_in(stack.api_url, merchant["email"], merchant["password"])
        token = str(self.client.session.headers["Authorization"]).removeprefix("Bearer ")
        payments = PAYMENTS_PER_SECOND * LONGEST_RUN_SECONDS
        self.load = Load(stack.api_url, token, payments, LONGEST_RUN_SECONDS, SEED)

    def say(self, text: str) -> None:
        """Tell what happens, at once."""
        sys.stdout.write(f"{time.monotonic() - self._began:6.1f} s  {text}\n")
        sys.stdout.flush()

    def carry_out(self) -> judge.Verdict:
        """Everything from the first payment to the verdict."""
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
        self.say(f"{len(self.load.notes.accepted)} payments accepted; draining")
        seconds = judge.drain(self.stack)
        verdict = judge.judge(self.stack, self.load.notes)
        verdict.drain_seconds = seconds
        verdict.failures += self._not_connected()
        if verdict.dead_unexpected:
            verdict.failures.append(f"{verdict.dead_unexpected} dead letters that are nobody's fault")
        return verdict

    def _lose(self, node: str, by: signal.Signals) -> None:
        """Take one node away, keep paying and settling without it, and have it back."""
        leads, connected = self.stack.leaders()[node], self.stack.connections()[node]
        what = f"{by.name} to {node}, leader of {leads} queues, {connected} connections"
        self.say(what)
        begin = time.time()
        with self.stack.away(node, by=by):
            self._settle_more(DURING)
            leader = self.stack.queue_leader(BROKEN_QUEUE)
            assert leader != node, f"{node} is away and still said to lead {BROKEN_QUEUE}"
            away = time.time() - begin
            self.say(f"settling without it for {away:.0f} s, {leader} leads {BROKEN_QUEUE}")
        self._complete_again()
        self._settle_more(BETWEEN)
        self.phases.append(Phase(what, away, self.stack.longest_pause(begin, time.time())))

    def _lose_majority(self) -> None:
        """Kill two of three: payments are accepted, nothing is routed or settled; then everything goes on."""
        first = self.stack.queue_leader(BROKEN_QUEUE)
        second = next(node for node in NODES if node != first)
        what = f"SIGKILL to {first} and {second}"
        self.say(what)
        begin = time.time()
        with self.stack.away(first, second, by=signal.SIGKILL):
            accepted = len(self.load.notes.accepted)
            self._until(lambda: len(self.load.notes.accepted) >= accepted + DURING, "payments without a broker")
            with self.stack.database() as connection:
                [[waiting]] = connection.execute("SELECT count(*) FROM outbox").fetchall()
            assert waiting, "payments left the outbox although no queue can take them"
            away = time.time() - begin
            self.say(f"{waiting} wait in the outbox after {away:.0f} s")
        back = self._complete_again()
        self._settle_more(BETWEEN)
        self.phases.append(Phase(f"{what}, since they run again", away, self.stack.longest_pause(back, time.time())))

    def _settle_more(self, number: int) -> None:
        before = self.stack.settled()
        self._until(lambda: self.stack.settled() >= before + number, f"{number} settlements")

    def _complete_again(self) -> float:
        """When all nodes ran again (seconds of the epoch)."""
        self._until(lambda: self.stack.running_nodes() == set(NODES), "all nodes")
        back = time.time()
        self._until(lambda: self.stack.incomplete_queues() == {}, "all members of the queues")
        self.say("all nodes run, and every queue has all of its members")
        return back

    def _until(self, probe: Callable[[], bool], what: str) -> None:
        assert not self.load.ended, f"the run takes longer than the load ({LONGEST_RUN_SECONDS} s)"
        eventually(probe, within=RETURN_SECONDS, what=what)

    def _not_connected(self) -> list[str]:
        """Who did not find its way back: workers, monitor, Flower, relay."""
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


def report(run: Run, verdict: judge.Verdict) -> None:
    """Print the table, and note what took too long."""
    seconds = sorted(sent.seconds for sent in run.load.notes.requests)
    p50, p99 = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]
    other = sum(sent.status != 201 for sent in run.load.notes.requests)
    rows = [(phase.what, f"settling paused {phase.pause_seconds:.1f} s") for phase in run.phases]
    rows += [
        ("payments accepted (201)", str(len(run.load.notes.accepted))),
        ("requests with another answer", str(other)),
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
        run.say(f"{name:<75} {value}")
    verdict.failures += [
        f"settling paused for {phase.pause_seconds:.1f} s: {phase.what}"
        for phase in run.phases
        if phase.pause_seconds > RESUME_LIMIT_SECONDS
    ]
    if p99 > P99_LIMIT_SECONDS:
        verdict.failures.append(f"p99 of POST was {p99:.2f} s")


def main() -> int:
    """Run, report, and say by the exit status whether every promise was kept."""
    run = Run(ClusterStack(Path(os.environ["GATEWAY_STACK"])))
    verdict = run.carry_out()
    report(run, verdict)
    for failure in verdict.failures:
        run.say(f"BROKEN: {failure}")
    run.say("every promise was kept" if not verdict.failures else "see the logs of the roles")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (AssertionError, TimeoutError, requests.RequestException, psycopg.Error) as error:
        sys.stdout.write(f"BROKEN: {type(error).__name__}: {error}\n")
        sys.exit(1)
