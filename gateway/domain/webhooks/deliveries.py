"""Claim due deliveries of events to endpoints, and record the results of their attempts.

`next_attempt_at` is both the schedule and the lease. A claim moves it into the future, so the delivery of a process
that died becomes due again.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.domain.shared.outbox import Topic
from gateway.domain.webhooks import bodies
from gateway.domain.webhooks import endpoints as webhook_endpoints
from gateway.domain.webhooks.event_queries import StoredEvent
from gateway.models.webhooks import LEASE_SECONDS
from gateway.states import DeliveryStatus

DELAYS_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""The delays between attempts. The first attempt is immediate; after the last delay there is one more attempt."""
JITTER = 0.2
"""Each delay is extended by a random part of up to this fraction."""
GONE = 410


@dataclass(frozen=True, slots=True)
class DeliveryClaim:
    """The right to send one event to one endpoint once, until the lease ends. `attempt` counts from 1."""

    id: UUID
    endpoint_id: UUID
    attempt: int
    lease: datetime
    url: str
    secrets: tuple[bytes, ...]
    """The encrypted secrets, newest first."""
    event_id: UUID
    body: bytes
    failing: bool
    """Whether the endpoint's last delivery failed."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The result of one attempt: the receiver's HTTP status, or why there is none."""

    claim: DeliveryClaim
    status: int | None
    error: str | None

    @property
    def outcome(self) -> DeliveryStatus:
        """Return the new status of the delivery, unless it has changed meanwhile."""
        if self.error is None:
            return DeliveryStatus.SUCCEEDED
        if self.status == GONE:
            return DeliveryStatus.CANCELED
        return DeliveryStatus.PENDING if self.claim.attempt <= len(DELAYS_SECONDS) else DeliveryStatus.EXHAUSTED

    def delay_seconds(self) -> float | None:
        """Return the time until the next attempt, if there is one."""
        if self.outcome is not DeliveryStatus.PENDING:
            return None
        return DELAYS_SECONDS[self.claim.attempt - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311  # no cryptography


# Each endpoint has its own subquery with FOR UPDATE, which stops at the limit and skips locked rows.
_CLAIM = text("""
    WITH requested AS (
        SELECT * FROM unnest(CAST(:endpoint_ids AS uuid[]), CAST(:maximum AS int[]), CAST(:max_failing AS int[]))
               AS r (endpoint_id, maximum, max_failing)
    ), due AS MATERIALIZED (
        SELECT d.id
        FROM requested r
        JOIN webhook_endpoints p ON p.id = r.endpoint_id AND p.status = 'enabled' AND p.deleted_at IS NULL
        CROSS JOIN LATERAL (
            SELECT id FROM webhook_deliveries
            WHERE endpoint_id = p.id AND status = 'pending' AND next_attempt_at <= now()
            ORDER BY next_attempt_at
            LIMIT CASE WHEN p.consecutive_failures > 0 THEN r.max_failing ELSE r.maximum END
            FOR UPDATE SKIP LOCKED
        ) d
    ), claimed AS (
        UPDATE webhook_deliveries SET next_attempt_at = now() + make_interval(secs => :lease_seconds)
        WHERE id = ANY (ARRAY(SELECT id FROM due))
        RETURNING id, merchant_id, endpoint_id, event_id, transaction_id, attempts, next_attempt_at
    )
    SELECT c.id, c.endpoint_id, c.attempts + 1 AS attempt, c.next_attempt_at AS lease, p.url, p.secret,
           CASE WHEN p.previous_secret_until > now() THEN p.previous_secret END AS previous_secret,
           p.consecutive_failures > 0 AS failing, c.transaction_id, b.body, e.id AS event_id, e.type, e.object_id,
           e.snapshot, e.created_at
    FROM claimed c JOIN webhook_endpoints p ON p.id = c.endpoint_id
    JOIN events e ON e.merchant_id = c.merchant_id AND e.id = c.event_id
    LEFT JOIN webhook_bodies b ON b.event_id = c.event_id
    ORDER BY c.id
""")


def claim(connection: Connection, limits: Mapping[UUID, tuple[int, int]]) -> list[DeliveryClaim]:
    """Claim due deliveries of each endpoint: at most the first number, or the second one if the endpoint is failing.

    One statement claims, one reads each kind of object, and one stores new bodies, whatever the number of deliveries.
    """
    values = {
        "endpoint_ids": list(limits),
        "maximum": [maximum for maximum, _ in limits.values()],
        "max_failing": [maximum for _, maximum in limits.values()],
        "lease_seconds": LEASE_SECONDS,
    }
    rows = connection.execute(_CLAIM, values).all()
    stored = {row.event_id: row.body for row in rows if row.body is not None}
    new = [row for row in rows if row.body is None]
    bodies_of_events = stored | bodies.make_and_store(
        connection,
        (StoredEvent(row.event_id, row.type, row.object_id, row.snapshot, row.created_at) for row in new),
        {row.event_id: row.transaction_id for row in new},
    )
    return [
        DeliveryClaim(
            id=row.id,
            endpoint_id=row.endpoint_id,
            attempt=row.attempt,
            lease=row.lease,
            url=row.url,
            secrets=(row.secret,) if row.previous_secret is None else (row.secret, row.previous_secret),
            event_id=row.event_id,
            body=bodies_of_events[row.event_id],
            failing=row.failing,
        )
        for row in rows
    ]


# A success counts even after the lease. A failure after the lease is ignored, because another process may have claimed
# the delivery. Endpoints are locked in the order of their ids, and only if they change, so recordings cannot deadlock.
_RECORD = text("""
    WITH result AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:endpoint_ids AS uuid[]), CAST(:leases AS timestamptz[]),
            CAST(:outcomes AS text[]), CAST(:delays AS float8[]), CAST(:statuses AS int[]), CAST(:errors AS text[])
        ) AS r (id, endpoint_id, lease, outcome, delay, response_status, error)
    ), recorded AS (
        UPDATE webhook_deliveries d
        SET status = r.outcome, attempts = d.attempts + 1, last_attempt_at = now(),
            response_status = r.response_status, last_error = r.error,
            next_attempt_at = now() + make_interval(secs => r.delay),
            finished_at = CASE WHEN r.delay IS NULL THEN now() END
        FROM result r
        WHERE d.id = r.id AND d.status = 'pending' AND (r.outcome = 'succeeded' OR d.next_attempt_at = r.lease)
        RETURNING d.status
    ), result_of_endpoint AS (
        SELECT endpoint_id, bool_or(outcome = 'succeeded') AS alive,
               count(*) FILTER (WHERE outcome <> 'succeeded') AS failed
        FROM result GROUP BY endpoint_id
    ), changed AS MATERIALIZED (
        SELECT p.id, t.alive, t.failed FROM webhook_endpoints p JOIN result_of_endpoint t ON t.endpoint_id = p.id
        WHERE NOT t.alive OR p.consecutive_failures > 0
        ORDER BY p.id FOR NO KEY UPDATE OF p
    ), noted AS (
        UPDATE webhook_endpoints p
        SET consecutive_failures = CASE WHEN c.alive THEN 0 ELSE p.consecutive_failures + c.failed END
        FROM changed c WHERE p.id = c.id
    )
    SELECT status, count(*) AS number FROM recorded GROUP BY status
""")


def record(connection: Connection, results: Sequence[DeliveryResult]) -> dict[str, int]:
    """Store the results of attempts; return the number of changed deliveries by their new status."""
    values = {
        "ids": [result.claim.id for result in results],
        "endpoint_ids": [result.claim.endpoint_id for result in results],
        "leases": [result.claim.lease for result in results],
        "outcomes": [result.outcome.value for result in results],
        "delays": [result.delay_seconds() for result in results],
        "statuses": [result.status for result in results],
        "errors": [result.error for result in results],
    }
    numbers = {row.status: row.number for row in connection.execute(_RECORD, values)}
    gone = {result.claim.endpoint_id for result in results if result.outcome is DeliveryStatus.CANCELED}
    if gone:
        webhook_endpoints.disable_gone(connection, list(gone))
    return numbers


# One index lookup for each endpoint. Endpoints that are already in the outbox are skipped.
_ENQUEUE_DUE = text(f"""
    INSERT INTO outbox (topic, subject_id, merchant_id)
    SELECT '{Topic.WEBHOOK_DUE}', p.id, p.merchant_id FROM webhook_endpoints p
    WHERE p.status = 'enabled' AND p.deleted_at IS NULL AND EXISTS (
        SELECT FROM webhook_deliveries d
        WHERE d.endpoint_id = p.id AND d.status = 'pending' AND d.next_attempt_at <= now()
    ) AND NOT EXISTS (SELECT FROM outbox o WHERE o.subject_id = p.id)
""")  # noqa: S608  # a constant


def enqueue_due(connection: Connection) -> int:
    """Enqueue the endpoints with due deliveries, of retries or of processes that died; return their number."""
    return connection.execute(_ENQUEUE_DUE).rowcount
