"""The verdict on webhooks: everything that happened is an event, and every event came, or is still on its schedule."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.domain.webhooks.deliveries import DELAYS_SECONDS, JITTER
from gateway.models.webhooks import LEASE_SECONDS
from tests.chaos.books import Books
from tests.chaos.judge import Verdict
from tests.chaos.receiver import Receiver, digest
from tests.end_to_end.client import Client

AWAITED_ATTEMPTS = 2
"""The run waits for so many attempts at each event: at once and after 5 s. The next one comes after five minutes."""
LATE = timedelta(seconds=LEASE_SECONDS + 30)
"""An attempt whose time came in an outage is made later than its schedule says, and one under way holds a lease."""
TELLS = {"completed": "completed", "partially_refunded": "completed", "refunded": "completed"}
"""The event of a transaction in a status, where they are not called the same."""


def judge(client: Client, books: Books, endpoint_id: str, receiver: Receiver, verdict: Verdict) -> None:
    """Compare everything; call it after `drain`."""
    events = {event["id"]: event for event in client.listed("/v1/events")}
    deliveries: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in client.listed(f"/v1/webhook-endpoints/{endpoint_id}/deliveries"):
        deliveries[row["event_id"]].append(row)
    now = datetime.now(UTC)
    not_taken = [id for id in events if not receiver.taken[id]]
    waiting = {id for id in not_taken if any(_may_wait(row, now) for row in deliveries[id])}
    verdict.figures += [
        ("events", len(events)),
        ("events delivered", len(events) - len(not_taken)),
        ("events that wait for their third attempt", len(waiting)),
        ("webhooks that came again", sum(number - 1 for number in receiver.taken.values() if number > 1)),
        ("webhooks that the receiver failed", _in_words(receiver.failures)),
    ]
    verdict.expect_none("events lost", [id for id in not_taken if id not in waiting])
    _judge_deliveries(events, deliveries, receiver, now, verdict)
    _judge_events(books, events, verdict)
    verdict.failures += receiver.problems[:10]
    if not receiver.taken:
        verdict.failures.append("no webhook came, so nothing is proven for them")


def _judge_deliveries(
    events: dict[str, dict[str, Any]],
    deliveries: dict[str, list[dict[str, Any]]],
    receiver: Receiver,
    now: datetime,
    verdict: Verdict,
) -> None:
    """Each event has one delivery, whose status is the truth; what came is what the API shows."""
    rows = [row for same in deliveries.values() for row in same]
    statuses = Counter(row["status"] for row in rows)
    verdict.figures.append(("deliveries by status", _in_words(statuses)))
    claimed = [row["id"] for row in rows if row["status"] == "succeeded" and not receiver.taken[row["event_id"]]]
    astray = [row["id"] for row in rows if row["status"] != "succeeded" and not _may_wait(row, now)]
    verdict.expect_none("said to be delivered, and never came", claimed)
    verdict.expect_none("deliveries off their schedule", astray)
    verdict.expect_none("events without their one delivery", [id for id in events if len(deliveries[id]) != 1])
    verdict.expect_none("webhooks of no event", sorted(receiver.said.keys() - events.keys()))
    differing = [
        id
        for id, event in events.items()
        if id in receiver.said and receiver.said[id] != digest(event["type"], event["created_at"], event["data"])
    ]
    verdict.expect_none("webhooks that say other than their event", differing)


def _may_wait(row: dict[str, Any], now: datetime) -> bool:
    """Whether a delivery that is not over has failed often enough to wait, and is due when its schedule says."""
    if row["status"] != "pending" or row["attempts"] < AWAITED_ATTEMPTS:
        return False
    delay = timedelta(seconds=DELAYS_SECONDS[row["attempts"] - 1])
    last, due = (datetime.fromisoformat(row[name]) for name in ("last_attempt_at", "next_attempt_at"))
    return last + delay <= due <= last + (1 + JITTER) * delay + LATE and due > now - LATE


def _judge_events(books: Books, events: dict[str, dict[str, Any]], verdict: Verdict) -> None:
    """What happened was told once, and nothing else was."""
    happened: Counter[tuple[str, str]] = Counter()
    for id, row in books.transactions.items():
        happened[f"transaction.{TELLS.get(row['status'], row['status'])}", id] += 1
    for id, row in books.refunds.items():
        if row["status"] in {"completed", "failed"}:
            happened[f"refund.{row['status']}", id] += 1
    happened.update(("settlement.completed", id) for id in books.settlements)
    told = Counter((event["type"], event["data"]["id"]) for event in events.values())
    verdict.expect_none("happened, and is no event", sorted((happened - told).elements()))
    verdict.expect_none("events of what did not happen", sorted((told - happened).elements()))


def _in_words(numbers: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items())) or "none"
