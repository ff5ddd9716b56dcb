"""Run chaos against the stack of GATEWAY_STACK, which `make chaos` starts."""

import argparse
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import psycopg
import requests

from tests.chaos import checks, refund_checks, webhook_checks
from tests.chaos.faults import Episode, happening, schedule, wait
from tests.chaos.load import ClientLog, Load, Sent
from tests.chaos.receiver import Receiver, listening
from tests.chaos.refunds import Refunds
from tests.chaos.stack import ChaosStack
from tests.end_to_end.client import log_in

FINISH_SECONDS = 60.0
RESUME_LIMIT_SECONDS = 30.0
RESUME_USUAL_SECONDS = 4.0
P99_LIMIT_SECONDS = 1.0
UNAVAILABLE_LIMIT_SECONDS = 2.5
"""503 within 2 s, plus half a second for a machine with two busy cores."""


def print_line(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Run:
    """One run: load, faults, drain, checks."""

    def __init__(self, stack: ChaosStack, receiver: Receiver, seed: int, payments: int, faults: int) -> None:
        self.stack = stack
        self.receiver = receiver
        self.episodes = schedule(seed, faults)
        self._rng = random.Random(seed)
        self._began = time.monotonic()
        self.resumed: list[tuple[str, float]] = []
        self.windows: list[tuple[float, float, Episode]] = []
        merchant = stack.found()["merchant"]
        self.client = log_in(stack.api_url, merchant["email"], merchant["password"])
        token = str(self.client.session.headers["Authorization"]).removeprefix("Bearer ")
        seconds = sum(episode.seconds + episode.pause + RESUME_USUAL_SECONDS for episode in self.episodes)
        self.load = Load(stack.api_url, token, payments, seconds, seed)
        self.refunds = Refunds(stack.api_url, token, seed, self.load.log)
        self.endpoint_id = self._subscribe()

    def _subscribe(self) -> str:
        """Subscribe the receiver to all events; it passes them to the refunds."""
        response = self.client.call("POST", "/v1/webhook-endpoints", json={"url": self.receiver.url, "events": ["*"]})
        response.raise_for_status()
        self.receiver.secret = response.json()["secret"]
        self.receiver.on_event = self.refunds.handle
        return str(response.json()["id"])

    def carry_out(self) -> checks.Verdict:
        """Run everything from the first payment to the checks."""
        self.load.start()
        for number, episode in enumerate(self.episodes, 1):
            wait(episode.pause)
            self._hit(number, episode)
        self.load.finish(FINISH_SECONDS)
        self.receiver.stop_failing()
        print_line(f"all faults are undone; {len(self.load.log.accepted)} payments accepted; draining")
        seconds, failures = 0.0, []
        try:
            seconds = checks.drain(self.stack)
            self.refunds.finish(FINISH_SECONDS)  # payments that were settled meanwhile may be refunded
            seconds += checks.drain(self.stack)
        except TimeoutError as exc:
            self.refunds.finish(FINISH_SECONDS)
            failures.append(str(exc))
        verdict = checks.check(self.stack, self.load.log)
        verdict.drain_seconds = seconds
        verdict.failures += failures
        read = refund_checks.check(self.stack, self.client, self.refunds.log, self.load.log, verdict)
        webhook_checks.check(self.client, read, self.endpoint_id, self.receiver, verdict)
        return verdict

    def _hit(self, number: int, episode: Episode) -> None:
        names = " + ".join(fault.name for fault in episode.faults)
        elapsed = time.monotonic() - self._began
        print_line(f"{elapsed:6.1f} s  {number:3}/{len(self.episodes)}  {names} for {episode.seconds:.1f} s")
        began = time.monotonic()
        with happening(self.stack, episode, self._rng):
            wait(episode.seconds)
        self.windows.append((began, time.monotonic(), episode))
        self.resumed.append((names, self._seconds_until_settling()))

    def _seconds_until_settling(self) -> float:
        """Return the time from the end of a fault to the next settlement, or 0 if no payment is left."""
        began = time.monotonic()
        before: int | None = None
        while (waited := time.monotonic() - began) < 2 * RESUME_LIMIT_SECONDS and not self.load.ended:
            try:
                with self.stack.database() as connection:
                    [[settled]] = connection.execute("SELECT count(*) FROM settlements").fetchall()
            except psycopg.Error:
                settled = None
            if before is not None and settled is not None and settled > before:
                return waited
            before = before if before is not None else settled
            time.sleep(0.1)
        return 0.0 if self.load.ended else time.monotonic() - began

    def latencies(self) -> tuple[float, float, float]:
        """Return p50 and p99 of requests without a database fault, and the longest 503, in seconds."""
        untouched = sorted(sent.seconds for sent in self.load.log.requests if not self._excused(sent))
        refused = [sent.seconds for sent in self.load.log.requests if sent.status == 503]
        if not untouched:
            return 0.0, 0.0, max(refused, default=0.0)
        return (
            untouched[len(untouched) // 2],
            untouched[int(len(untouched) * 0.99)],
            max(refused, default=0.0),
        )

    def _excused(self, sent: Sent) -> bool:
        """Return whether the request failed or overlapped a fault of the database."""
        return sent.status in {0, 503} or any(
            sent.at <= end + 1.0 and sent.at + sent.seconds >= begin
            for begin, end, episode in self.windows
            if any(fault.database for fault in episode.faults)
        )


def report(run: Run, verdict: checks.Verdict, seed: int) -> None:
    """Print the table."""
    log: ClientLog = run.load.log
    kinds = Counter(fault.name for episode in run.episodes for fault in episode.faults)
    p50, p99, refused = run.latencies()
    slowest = max(run.resumed, key=lambda item: item[1], default=("none", 0.0))
    hanging = sum(sent.status == 0 and sent.seconds >= 9.5 for sent in log.requests)
    rows = [
        ("seed", seed),
        ("payments accepted (201)", len(log.accepted)),
        ("payments without a response", log.unanswered),
        ("faults", sum(kinds.values())),
        ("lost", len(verdict.lost)),
        ("settled twice", len(verdict.settled_twice)),
        ("charged twice", len(verdict.charged_twice)),
        ("charged, not settled", len(verdict.charged_not_settled)),
        ("settled, not charged", len(verdict.settled_not_charged)),
        ("dead letters, expected", verdict.dead_expected),
        ("dead letters, unexpected", verdict.dead_unexpected),
        ("statuses", ", ".join(f"{name} {number}" for name, number in sorted(verdict.statuses.items()))),
        *verdict.figures,
        ("longest time until settling resumed", f"{slowest[1]:.1f} s after: {slowest[0]}"),
        ("POST p50 / p99, database up", f"{p50 * 1000:.0f} ms / {p99 * 1000:.0f} ms"),
        ("longest 503", f"{refused:.1f} s"),
        ("requests that hung (10 s)", hanging),
        ("drained in", f"{verdict.drain_seconds:.0f} s"),
    ]
    print_line("\n" + "\n".join(f"  {name:<48}{value}" for name, value in rows))
    print_line("\n  faults by kind: " + ", ".join(f"{name} {number}" for name, number in sorted(kinds.items())))
    if slowest[1] > RESUME_LIMIT_SECONDS:
        verdict.failures.append(f"settling resumed only {slowest[1]:.1f} s after: {slowest[0]}")
    if p99 > P99_LIMIT_SECONDS:
        verdict.failures.append(f"p99 of POST was {p99:.2f} s while the database was up")
    if hanging:
        verdict.failures.append(f"{hanging} requests got no response within 10 s")


def main() -> int:
    """Run and report; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="seed of the schedule and the load; default: the time")
    parser.add_argument("--payments", type=int, default=2_000, help="payments to post (default: 2000)")
    parser.add_argument("--faults", type=int, default=20, help="faults to inject (default: 20)")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int(time.time())
    stack = ChaosStack(Path(os.environ["GATEWAY_STACK"]))
    with listening(seed) as receiver:
        run = Run(stack, receiver, seed, given.payments, given.faults)
        print_line(f"seed {seed}: {given.payments} payments, {given.faults} faults in {len(run.episodes)} episodes")
        verdict = run.carry_out()
    report(run, verdict, seed)
    for failure in verdict.failures:
        print_line(f"\n  BROKEN: {failure}")
    print_line("\n  every promise was kept" if not verdict.failures else f"\n  to repeat it, set SEED={seed}")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (requests.RequestException, psycopg.Error) as error:
        print_line(f"the run could not be checked: {type(error).__name__}: {error}")
        sys.exit(2)
