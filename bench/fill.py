"""Fill the tables with millions of settled payments, as after months.

They are copies of one that the gateway has settled, with other ids and times.
"""

import time
from dataclasses import dataclass
from typing import Any

import psycopg

from devstack.terminal import info
from devstack.waiting import pause

COUNT_MAX = 10_000_000
DAYS = 90
"""`COUNT_MAX` copies are spread evenly over these days up to now; a smaller number fills the oldest days."""
KEPT_DAYS = 30
"""The retention of idempotency records."""
_DAY_MS = 86_400_000
_SPACING_MS = DAYS * _DAY_MS / COUNT_MAX
CHUNK = 250_000
MISMATCHES = 100
"""Of each kind."""

_NEWEST = "SELECT id, merchant_id FROM transactions WHERE status = 'completed' ORDER BY id DESC LIMIT 1"
_COLUMNS = """
    SELECT column_name FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name = %s AND is_identity = 'NO' AND is_generated = 'NEVER'
    ORDER BY ordinal_position
"""


def _id(kind: str, number: str = "n") -> str:
    """Return SQL for a UUIDv7 with the time of the n-th payment; `kind`, the variant's digit, differs by table."""
    hexadecimal = f"lpad(to_hex(ms), 12, '0') || '7' || lpad(to_hex(mod({number}, 4096)), 3, '0')"
    return f"CAST({hexadecimal} || '{kind}' || lpad(to_hex({number}), 15, '0') AS uuid)"


_TRANSACTION, _SETTLEMENT, _EVENT = _id("8"), _id("9"), _id("a", "(2 * n + k)")
_TIME = "to_timestamp(ms / 1000.0)"
_REFERENCE = "'copy_' || lpad(to_hex(n), 15, '0')"
_OWN = {
    "transactions": {"id": _TRANSACTION, "provider_reference": _REFERENCE, "reference": "'copy-' || n"},
    "charge_attempts": {"transaction_id": _TRANSACTION},
    "settlements": {"id": _SETTLEMENT, "transaction_id": _TRANSACTION, "provider_reference": _REFERENCE},
    "ledger_entries": {"source_id": _SETTLEMENT, "transaction_id": _TRANSACTION},
    "events": {"id": _EVENT, "object_id": f"CASE k WHEN 0 THEN {_TRANSACTION} ELSE {_SETTLEMENT} END"},
    "idempotency_records": {"key": _REFERENCE, "transaction_id": _TRANSACTION},
}
"""Columns that differ between copies. Times differ too; all other columns are as in the original."""
_SOURCE = {
    "transactions": "id = %(transaction)s",
    "events": "object_id IN (%(transaction)s, (SELECT id FROM settlements WHERE transaction_id = %(transaction)s))"
    " AND merchant_id = %(merchant)s ORDER BY type DESC",
}
_BALANCE = """
    INSERT INTO balance_changes (merchant_id, currency, settled, refunded, fees)
    SELECT merchant_id, currency, amount * %(copies)s, 0, fee * %(copies)s
    FROM settlements WHERE transaction_id = %(transaction)s
"""

DEAD_LETTERS_EVERY = 100
"""One in this number of copies was dead-lettered and replayed; one in this number of those is still open."""
_DEAD_LETTERS = """
    INSERT INTO dead_letters (id, message_key, transaction_id, merchant_id, queue, task, reason, attempts, payload,
                              headers, status, first_failed_at, dead_lettered_at, resolved_at, resolved_by)
    SELECT id, 'copy-' || id, id, merchant_id, 'settlement.requested', 'payments.settle', 'exhausted', 4, '[]',
           '{}', CASE WHEN is_open THEN 'open' ELSE 'replayed' END, created_at, created_at,
           CASE WHEN NOT is_open THEN created_at END, CASE WHEN NOT is_open THEN 'bench' END
    FROM (
        SELECT *, n %% (%(every)s * %(every)s) = 0 AS is_open
        FROM (SELECT *, CAST(substr(reference, 6) AS bigint) AS n FROM transactions WHERE reference LIKE 'copy-%%') AS t
        WHERE n >= %(present)s AND n %% %(every)s = 0
    ) AS copies
"""


@dataclass(frozen=True, slots=True)
class _Copier:
    """Makes the copies with the numbers from `first` up to but not including `end`."""

    connection: psycopg.Connection[Any]
    first: int
    end: int
    start_ms: int
    """The time of copy 0."""

    def copy(self, table: str) -> None:
        """Copy the rows of one table."""
        columns = [row[0] for row in self.connection.execute(_COLUMNS, [table])]
        times = {name for name in columns if name.endswith("_at") or name == "lease_until"}
        own = {name: f"CASE WHEN {name} IS NOT NULL THEN {_TIME} END" for name in times} | _OWN[table]
        chosen = ", ".join(f'{own.get(name, name)} AS "{name}"' for name in columns)
        named = ", ".join(f'"{name}"' for name in columns)
        numbers = (
            "SELECT n, CAST(%(start)s + n * %(spacing)s AS bigint) AS ms"
            " FROM generate_series(CAST(%(low)s AS bigint), %(high)s) AS n"
        )
        statement = (
            f"INSERT INTO {table} ({named}) SELECT {chosen} FROM ({numbers}) AS numbers"
            f" CROSS JOIN original_{table} ORDER BY n"
        )
        oldest = COUNT_MAX * (DAYS - KEPT_DAYS) // DAYS if table == "idempotency_records" else 0
        values = {"start": self.start_ms, "spacing": _SPACING_MS}
        for low in range(max(self.first, oldest), self.end, CHUNK):
            pause(0)  # handles Ctrl-C
            high = min(low + CHUNK, self.end) - 1
            self.connection.execute(statement.encode(), values | {"low": low, "high": high})


def fill(superuser_url: str, count: int, present: int = 0) -> None:
    """Raise the number of copies from `present` to `count`, as a superuser, who can turn off foreign-key checks."""
    began = time.monotonic()
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for setting in ("session_replication_role = replica", "synchronous_commit = off", "work_mem = '256MB'"):
            connection.execute(f"SET {setting}".encode())
        newest = connection.execute(_NEWEST).fetchone()
        assert newest is not None, "there is no settled payment to copy"
        values = {"transaction": newest[0], "merchant": newest[1], "copies": count - present}
        copier = _Copier(connection, present, count, int(time.time() * 1000) - DAYS * _DAY_MS)
        for table in _OWN:
            source = _SOURCE.get(table, "transaction_id = %(transaction)s")
            found = f"SELECT * FROM {table} WHERE {source}"
            numbered = f"SELECT (row_number() OVER () - 1)::int AS k, found.* FROM ({found}) AS found"
            connection.execute(f"CREATE TEMP TABLE original_{table} AS {numbered}".encode(), values)
            copier.copy(table)
            info(f"{table}: filled up to {count} payments after {time.monotonic() - began:.0f} s")
        connection.execute(_BALANCE, values)
        connection.execute(_DEAD_LETTERS, {"every": DEAD_LETTERS_EVERY, "present": present})
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def make_mismatches(superuser_url: str) -> int:
    """Change some of the copies in three ways; return their number."""
    copies = "SELECT id FROM settlements WHERE provider_reference LIKE 'copy_%%' ORDER BY id LIMIT %s OFFSET %s"
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for number, change in enumerate(
            (
                "UPDATE settlements SET amount = amount + 1, net = net + 1",
                "UPDATE settlements SET currency = 'EUR'",
                "DELETE FROM settlements",
            )
        ):
            query = f"{change} WHERE id IN ({copies})"
            connection.execute(query.encode(), [MISMATCHES, number * 10 * MISMATCHES])
        connection.execute("ANALYZE settlements")
    return 3 * MISMATCHES
