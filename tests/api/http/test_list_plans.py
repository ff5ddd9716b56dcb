"""The cost of GET requests with large tables: no list scans a table, with any filter.

The endpoints and their parameters are those that the application declares, and the statements are those that it sends,
so a new list or filter is covered automatically. There are enough rows for PostgreSQL to plan as for ten million.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import text

from gateway.api.http.paging import ListQuery
from gateway.api.http.routes import Endpoint
from gateway.db import answer_timeout, begin
from gateway.domain.shared.listing import SEARCH_ROWS_MAX
from gateway.models import all_tables
from tests.api.conftest import Caller
from tests.api.routes import endpoints, name_of, path_of, route_of
from tests.api.world import World, world
from tests.helpers.captured_sql import Statement, executed, read_by, statements

__all__ = ["world"]

ROWS = 60_000
FILL_SECONDS = 120
ROWS_READ_MAX = SEARCH_ROWS_MAX + 1_000
"""Maximum number of rows that one page reads: a limited search, the objects of the page, and their relations."""
LARGE = 10_000
"""Minimum number of rows of a table that must not be scanned."""

FILL = (
    """INSERT INTO transactions (id, merchant_id, amount, currency, status, payment_method, reference, customer_id,
           provider, provider_reference, failure_category, failure_code, attempts, attempt_limit, request_id,
           created_at, updated_at, completed_at)
       SELECT id, :merchant_id, 1 + n % 5000, CASE WHEN n % 25000 = 7 THEN 'CHF' ELSE 'USD' END, status, 'tok_approve',
              'order-' || n, 'cus_' || n % 1000, 'simulated',
              CASE WHEN settled THEN 'sim_' || n END,
              CASE WHEN status IN ('failed', 'dead_lettered') THEN 'declined' END,
              CASE WHEN status = 'failed' THEN 'fraud' END, 1, 4, 'r', at, at, CASE WHEN settled THEN at END
       FROM (SELECT n, CASE n % 1000 WHEN 1 THEN 'failed' WHEN 2 THEN 'canceled' WHEN 3 THEN 'dead_lettered'
                       WHEN 4 THEN 'refunded' WHEN 5 THEN 'partially_refunded' WHEN 6 THEN 'processing'
                       WHEN 7 THEN 'pending' ELSE 'completed' END AS status,
                    n % 1000 NOT IN (1, 2, 3, 6, 7) AS settled, now() - make_interval(secs => :rows - n) AS at
             FROM generate_series(1, :rows) n) a
       CROSS JOIN LATERAL (SELECT CAST(overlay(uuid_v7()::text PLACING
           regexp_replace(lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0'), '^(.{8})', '\\1-')
           FROM 1 FOR 13) AS uuid) AS id) b""",
    """INSERT INTO charge_attempts (transaction_id, number, provider, task_id, started_at, lease_until, finished_at,
           outcome)
       SELECT id, 1, 'simulated', 't', updated_at, updated_at, updated_at, 'approved' FROM transactions
       WHERE reference IS NOT NULL""",
    """INSERT INTO settlements (id, transaction_id, merchant_id, amount, fee, net, currency, status, provider,
           provider_reference, attempts, settled_at)
       SELECT id, id, merchant_id, amount, 0, amount, currency, 'settled', 'simulated', provider_reference, 1,
              completed_at FROM transactions
       WHERE reference IS NOT NULL AND completed_at IS NOT NULL ORDER BY id""",
    """INSERT INTO refunds (id, transaction_id, merchant_id, amount, currency, status, provider, provider_reference,
           attempt_limit, request_id, created_at, updated_at, completed_at)
       SELECT id, id, merchant_id, 1, currency, 'completed', 'simulated', 're_' || id, 4, 'r', updated_at, updated_at,
              updated_at FROM transactions
       WHERE reference IS NOT NULL AND completed_at IS NOT NULL ORDER BY id LIMIT 20000""",
    """INSERT INTO refund_attempts (refund_id, number, provider, task_id, started_at, lease_until)
       SELECT id, 1, provider, 't', created_at, created_at FROM refunds""",
    """INSERT INTO events (merchant_id, id, type, object_id, created_at)
       SELECT merchant_id, id, 'transaction.' || status, id, updated_at FROM transactions
       WHERE reference IS NOT NULL AND status IN ('completed', 'failed', 'dead_lettered', 'canceled') ORDER BY id""",
    """INSERT INTO webhook_endpoints (id, merchant_id, url, events, secret)
       SELECT uuid_v7(), :merchant_id, 'https://example.com', '{}', '' FROM generate_series(1, 2)""",
    """INSERT INTO webhook_deliveries (id, merchant_id, endpoint_id, event_id, event_type, transaction_id, status,
           created_at)
       SELECT t.id, t.merchant_id, e.id, t.id, 'transaction.completed', t.id, 'succeeded', t.updated_at
       FROM transactions t, (SELECT id FROM webhook_endpoints LIMIT 1) e
       WHERE t.reference IS NOT NULL ORDER BY t.id LIMIT 20000""",
    """INSERT INTO dead_letters (id, message_key, transaction_id, merchant_id, queue, reason, attempts, payload,
           headers, status, first_failed_at, dead_lettered_at, resolved_at)
       SELECT id, id, id, merchant_id, 'settlement.requested', 'rejected', 4, '[]', '{}', 'replayed', updated_at,
              updated_at, updated_at FROM transactions
       WHERE reference IS NOT NULL ORDER BY id LIMIT 20000""",
    """INSERT INTO audit_log (id, actor, action, subject)
       SELECT id, 'user:' || merchant_id, 'dead_letter.replayed', id FROM transactions WHERE reference IS NOT NULL
       ORDER BY id LIMIT 20000""",
    """INSERT INTO idempotency_records (merchant_id, key, request_hash, transaction_id, status, body)
       SELECT merchant_id, id, sha256(id::text::bytea), id, 201, '' FROM transactions WHERE reference IS NOT NULL
       LIMIT 20000""",
    """INSERT INTO balances (merchant_id, currency, settled, refunded, fees)
       SELECT id, 'USD', 1, 0, 0 FROM merchants ON CONFLICT DO NOTHING""",
)
"""Rows of one merchant as after a year: most of them of the common kind, a few of each rare one."""

SAMPLES: dict[str, tuple[object, ...]] = {
    "currency": ("USD", "CHF", "JPY"),
    "reference": ("order-1001", "none"),
    "customer_id": ("cus_77", "none"),
    "amount_min": (1, 5_001),
    "amount_max": (5_000, 0),
    "queue": ("settlement.requested", "webhook.delivery"),
    "reason": ("rejected", "expired"),
    "actor": ("user:none", "cli"),
    "action": ("dead_letter.replayed", "user.created"),
    "subject": ("none",),
}
"""Values of each filter that match many rows and few rows; those of enums, ids and times need no samples."""
HALF_WAY = datetime.now(UTC) - timedelta(seconds=ROWS / 2)


@pytest.fixture(scope="module")
def full(world: World) -> Iterator[World]:
    """Return the world with many rows of its merchant."""
    with answer_timeout(FILL_SECONDS), begin() as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = '{FILL_SECONDS}s'"))
        for statement in FILL:
            connection.execute(text(statement), {"merchant_id": world.merchant.merchant_id, "rows": ROWS})
        connection.execute(text("ANALYZE"))
    yield world
    with begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(all_tables().tables)}"))


def values_of(endpoint: Endpoint, name: str, world: World) -> tuple[object, ...]:
    """Return the values to use for a filter."""
    assert endpoint.query is not None
    schema = endpoint.query.model_json_schema()
    options = schema["properties"][name].get("anyOf", [schema["properties"][name]])
    for option in options:
        choices = schema.get("$defs", {}).get(option.get("$ref", "").rpartition("/")[2], option)
        if "enum" in choices:
            return tuple(choices["enum"])
        if choices.get("format") == "date-time":
            return (HALF_WAY.isoformat(),)
    if name == "merchant_id":
        return (world.merchant.merchant_id, world.other.merchant_id)
    if name.removesuffix("_id") in world.ids:
        return (world.ids[name.removesuffix("_id")],)
    assert name in SAMPLES, f"{endpoint.path}?{name}= is a new filter: add values to SAMPLES"
    return SAMPLES[name]


def queries(endpoint: Endpoint, world: World) -> Iterator[dict[str, object]]:
    """Yield no filter, each filter with each of its values, and each pair of filters with their first and last ones."""
    assert endpoint.query is not None
    names = [name for name in endpoint.query.model_fields if name not in ListQuery.model_fields]
    values = {name: values_of(endpoint, name, world) for name in names}
    yield {}
    yield from ({name: value} for name in names for value in values[name])
    for one, other in combinations(names, 2):
        ends = product({values[one][0], values[one][-1]}, {values[other][0], values[other][-1]})
        yield from ({one: first, other: second} for first, second in ends)


def pages(caller: Caller, path: str, query: dict[str, object]) -> Iterator[Statement]:
    """Yield the statements of the first two pages."""
    for _ in range(2):
        with statements() as sent:
            response = caller.get(f"{path}?{urlencode(query)}" if query else path)
        assert response.status_code == 200, response.text
        yield from (statement for statement in sent if not re.search("INSERT|UPDATE|DELETE", statement.sql))
        if not response.is_json or not response.json.get("next_cursor"):
            return
        query = query | {"cursor": response.json["next_cursor"]}


def large_tables() -> set[str]:
    """Return the tables that the test has filled."""
    with begin() as connection:
        found = connection.execute(text("SELECT relname FROM pg_class WHERE reltuples >= :rows"), {"rows": LARGE})
        return set(found.scalars()) & set(all_tables().tables)


READS = [endpoint for endpoint in endpoints() if endpoint.method == "GET" and not endpoint.public]


@pytest.mark.parametrize("endpoint", READS, ids=name_of)
def test_a_get_request_reads_few_rows_of_large_tables(full: World, endpoint: Endpoint) -> None:
    large = large_tables()
    assert {"transactions", "settlements", "refunds", "events", "dead_letters", "charge_attempts", "audit_log"} <= large
    route = route_of(endpoint)
    caller = full.caller_with(route.scope or "")
    path = path_of(endpoint, full.ids[route.object]) if route.object else path_of(endpoint)
    is_list = endpoint.query is not None and issubclass(endpoint.query, ListQuery)
    for query in queries(endpoint, full) if is_list else [{}]:
        for statement in pages(caller, path, query):
            plan = executed(statement)
            scanned = [node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"]
            assert not large & set(scanned), (query, statement, scanned)
            assert sum(read_by(node) for node in plan) <= ROWS_READ_MAX, (query, statement, plan)


def test_a_rare_match_in_a_long_history_is_found_page_by_page(full: World) -> None:
    found: list[dict[str, Any]] = []
    pages_seen, cursor = 0, dict[str, str]()
    while True:
        page = full.merchant.get(f"/v1/transactions?{urlencode({'currency': 'CHF', 'amount_max': 8, **cursor})}").json
        found += page["data"]
        pages_seen += 1
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}

    references = [item["reference"] for item in found]
    assert references == [f"order-{n}" for n in range(50_007, 0, -25_000)]
    assert pages_seen == ROWS // SEARCH_ROWS_MAX + 1
