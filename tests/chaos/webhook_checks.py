"""Check webhooks: every change has an event, and every event was delivered or is still scheduled."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.domain.webhooks.deliveries import DELAYS_SECONDS, JITTER
from gateway.models.webhooks import LEASE_SECONDS
from tests.chaos.checks import Verdict
from tests.chaos.receiver import Receiver, digest
from tests.chaos.refund_checks import MerchantData
from tests.end_to_end.client import Client

ATTEMPTS = 2
"""The run waits for this number of attempts per event: at once and after 5 s. The next follows after five minutes."""
LATE = timedelta(seconds=LEASE_SECONDS + 30)
"""An attempt that is due in an outage is made later than scheduled, and a running one holds a lease."""
EVENT_OF_STATUS = {"completed": "completed", "partially_refunded": "completed", "refunded": "completed"}
"""The event of a transaction in a status, if its name differs from the status."""


def check(client: Client, data: MerchantData, endpoint_id: str, receiver: Receiver, verdict: Verdict) -> None:
    """Check all events; call this after `drain`."""
    events = {event["id"]: event for event in client.listed("/v1/events")}
    deliveries: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in client.listed(f"/v1/webhook-endpoints/{endpoint_id}/deliveries"):
        deliveries[row["event_id"]].append(row)
    now = datetime.now(UTC)
    not_accepted = [id for id in events if not receiver.accepted[id]]
    waiting = {id for id in not_accepted if any(_may_wait(row, now) for row in deliveries[id])}
    verdict.figures += [
        ("events", len(events)),
        ("events delivered", len(events) - len(not_accepted)),
        ("events that wait for their third attempt", len(waiting)),
        ("repeated webhooks", sum(number - 1 for number in receiver.accepted.values() if number > 1)),
        ("failures of the receiver", _in_words(receiver.failures)),
    ]
    verdict.expect_none("events lost", [id for id in not_accepted if id not in waiting])
    _check_deliveries(events, deliveries, receiver, now, verdict)
    _check_events(data, events, verdict)
    verdict.failures += receiver.problems[:10]
    if not receiver.accepted:
        verdict.failures.append("no webhook arrived, so webhooks were not tested")


def _check_deliveries(
    events: dict[str, dict[str, Any]],
    deliveries: dict[str, list[dict[str, Any]]],
    receiver: Receiver,
    now: datetime,
    verdict: Verdict,
) -> None:
    """Check that each event has one delivery with the correct status, and that webhooks match their events."""
    rows = [row for same in deliveries.values() for row in same]
    statuses = Counter(row["status"] for row in rows)
    verdict.figures.append(("deliveries by status", _in_words(statuses)))
    undelivered = [row["id"] for row in rows if row["status"] == "succeeded" and not receiver.accepted[row["event_id"]]]
    off_schedule = [row["id"] for row in rows if row["status"] != "succeeded" and not _may_wait(row, now)]
    verdict.expect_none("succeeded, but not received", undelivered)
    verdict.expect_none("deliveries off their schedule", off_schedule)
    verdict.expect_none("events without exactly one delivery", [id for id in events if len(deliveries[id]) != 1])
    verdict.expect_none("webhooks without an event", sorted(receiver.digests.keys() - events.keys()))
    differing = [
        id
        for id, event in events.items()
        if id in receiver.digests and receiver.digests[id] != digest(event["type"], event["created_at"], event["data"])
    ]
    verdict.expect_none("webhooks that differ from their event", differing)


def _may_wait(row: dict[str, Any], now: datetime) -> bool:
    """Return whether a pending delivery has failed `ATTEMPTS` times and is due according to its schedule."""
    if row["status"] != "pending" or row["attempts"] < ATTEMPTS:
        return False
    delay = timedelta(seconds=DELAYS_SECONDS[row["attempts"] - 1])
    last, due = (datetime.fromisoformat(row[name]) for name in ("last_attempt_at", "next_attempt_at"))
    return last + delay <= due <= last + (1 + JITTER) * delay + LATE and due > now - LATE


def _check_events(data: MerchantData, events: dict[str, dict[str, Any]], verdict: Verdict) -> None:
    """Check that every change has exactly one event, and that there are no other events."""
    expected: Counter[tuple[str, str]] = Counter()
    for id, row in data.transactions.items():
        expected[f"transaction.{EVENT_OF_STATUS.get(row['status'], row['status'])}", id] += 1
    for id, row in data.refunds.items():
        if row["status"] in {"completed", "failed"}:
            expected[f"refund.{row['status']}", id] += 1
    expected.update(("settlement.completed", id) for id in data.settlements)
    found = Counter((event["type"], event["data"]["id"]) for event in events.values())
    verdict.expect_none("changes without an event", sorted((expected - found).elements()))
    verdict.expect_none("events without a change", sorted((found - expected).elements()))


def _in_words(numbers: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items())) or "none"
