"""The charges and refunds of the acquirer, in an SQLite file that one thread writes.

A commit reaches the operating system before the response is sent, so a SIGKILL loses nothing. A power failure could
(`synchronous=NORMAL`), which does not matter for tests.
"""

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from gateway.sandbox.wire import Rejected

FEE_BASIS_POINTS = 180
"""The fee of the acquirer, which is independent of the gateway's fee for merchants."""
BUSY_MS = 5_000
PAGE_ROWS = 1_000

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS charges (
        sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, idempotency_key TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL CHECK (status IN ('approved', 'declined')), amount INTEGER NOT NULL CHECK (amount > 0),
        currency TEXT NOT NULL, payment_method TEXT NOT NULL, decline_code TEXT, created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS refunds (
        sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, idempotency_key TEXT NOT NULL UNIQUE,
        charge_id TEXT NOT NULL REFERENCES charges (id), amount INTEGER NOT NULL CHECK (amount > 0),
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS refunds_charge_id ON refunds (charge_id);
    CREATE TABLE IF NOT EXISTS faulty_calls (idempotency_key TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
"""
_REFUND = """
    SELECT r.sequence, r.id, r.idempotency_key, r.charge_id, r.amount, c.currency, r.created_at
    FROM refunds r JOIN charges c ON c.id = r.charge_id
"""
_STATEMENT = """
    SELECT id, idempotency_key, 'charge' AS type, amount, currency, created_at
    FROM charges WHERE status = 'approved' AND created_at >= :start AND created_at < :end
    UNION ALL
    SELECT r.charge_id, r.idempotency_key, 'refund', r.amount, c.currency, r.created_at
    FROM refunds r JOIN charges c ON c.id = r.charge_id WHERE r.created_at >= :start AND r.created_at < :end
    ORDER BY created_at
"""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge, approved or declined; `sequence` counts all charges."""

    sequence: int
    id: str
    idempotency_key: str
    status: str
    amount: int
    currency: str
    payment_method: str
    decline_code: str | None
    created_at: str


@dataclass(frozen=True, slots=True)
class Refund:
    """One refund; `sequence` counts all refunds."""

    sequence: int
    id: str
    idempotency_key: str
    charge_id: str
    amount: int
    currency: str
    created_at: str


def rfc3339(at: datetime) -> str:
    """Return a UTC time as text. All have the same length, so comparing texts compares times."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _now() -> str:
    return rfc3339(datetime.now(UTC))


def _fee(amount: int) -> int:
    return (amount * FEE_BASIS_POINTS + 5_000) // 10_000


class Store:
    """The file. Call its methods in one event loop; what `durably` returns is committed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.executescript(_SCHEMA)
        self._batch: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    async def durably(self, work: Callable[[], T]) -> T:
        """Return the result of `work` after everything that it wrote or read is committed.

        All calls of one iteration of the event loop share a commit.
        """
        if self._batch is None:
            self._connection.execute("BEGIN IMMEDIATE")
            loop = asyncio.get_running_loop()
            self._batch = loop.create_future()
            loop.call_soon(self._commit, self._batch)
        batch = self._batch
        result = work()
        await batch
        return result

    def _commit(self, batch: asyncio.Future[None]) -> None:
        self._batch = None
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as exc:
            self._connection.rollback()
            batch.set_exception(exc)
        else:
            batch.set_result(None)

    def charge(
        self, key: str, amount: int, currency: str, payment_method: str, decline_code: str | None
    ) -> tuple[Charge, bool]:
        """Return the charge of `key`, and whether this call created it.

        Raises:
            Rejected: the key belongs to a charge with other parameters.
        """
        status = "approved" if decline_code is None else "declined"
        row = (f"ch_{uuid.uuid4().hex}", key, status, amount, currency, payment_method, decline_code, _now())
        inserted = self._connection.execute(
            "INSERT INTO charges (id, idempotency_key, status, amount, currency, payment_method, decline_code,"
            " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (idempotency_key) DO NOTHING",
            row,
        )
        if inserted.rowcount:
            return Charge(int(inserted.lastrowid or 0), *row), True
        charge = self.find_charge(key)
        if charge is None or (charge.amount, charge.currency, charge.payment_method) != (
            amount,
            currency,
            payment_method,
        ):
            raise Rejected(409, "idempotency_conflict", "This key belongs to a charge with other parameters.")
        return charge, False

    def refund(self, key: str, charge_id: str, amount: int, refusal: str | None = None) -> tuple[Refund, bool]:
        """Return the refund of `key`, and whether this call created it. With a `refusal` code it is refused.

        Raises:
            Rejected: the charge does not exist or was declined, the amount is too high, the refund is refused, or the
                key belongs to another refund.
        """
        known = self.find_refund(key)
        if known is not None:
            if (known.charge_id, known.amount) != (charge_id, amount):
                raise Rejected(409, "idempotency_conflict", "This key belongs to a refund with other parameters.")
            return known, False
        charge = self._connection.execute(
            "SELECT status, amount, currency FROM charges WHERE id = ?", (charge_id,)
        ).fetchone()
        if charge is None:
            raise Rejected(404, "unknown_charge", "The charge does not exist.")
        status, charged, currency = charge
        if status != "approved":
            raise Rejected(422, "not_refundable", "The charge was declined.")
        if refusal is not None:
            raise Rejected(422, refusal, "The refund is refused.")
        refunded = "SELECT coalesce(sum(amount), 0) FROM refunds WHERE charge_id = ?"
        left = charged - self._connection.execute(refunded, (charge_id,)).fetchone()[0]
        if amount > left:
            raise Rejected(422, "amount_exceeds_charge", f"The refundable amount of this charge is {left}.")
        row = (f"re_{uuid.uuid4().hex}", key, charge_id, amount, _now())
        insert = "INSERT INTO refunds (id, idempotency_key, charge_id, amount, created_at) VALUES (?, ?, ?, ?, ?)"
        sequence = int(self._connection.execute(insert, row).lastrowid or 0)
        return Refund(sequence, *row[:4], currency, row[4]), True

    def count_faulty_call(self, key: str) -> int:
        """Count a call of a faulty payment method with `key` and return the number of calls."""
        count = self._connection.execute(
            "INSERT INTO faulty_calls VALUES (?, 1) ON CONFLICT DO UPDATE SET number = number + 1 RETURNING number",
            (key,),
        )
        return int(count.fetchall()[0][0])

    def payment_method_of(self, charge_id: str) -> str | None:
        """Return the payment method of the charge with this id, or None."""
        row = self._connection.execute("SELECT payment_method FROM charges WHERE id = ?", (charge_id,)).fetchone()
        return None if row is None else str(row[0])

    def find_charge(self, key: str) -> Charge | None:
        """Return the charge of an idempotency key, or None."""
        row = self._connection.execute("SELECT * FROM charges WHERE idempotency_key = ?", (key,)).fetchone()
        return None if row is None else Charge(*row)

    def find_refund(self, key: str) -> Refund | None:
        """Return the refund of an idempotency key, or None."""
        row = self._connection.execute(f"{_REFUND} WHERE r.idempotency_key = ?", (key,)).fetchone()
        return None if row is None else Refund(*row)

    def all_charges(self, after: int) -> Iterator[Sequence[Charge]]:
        """Yield pages of all charges after the sequence `after`, oldest first."""
        for page in self._pages("SELECT * FROM charges WHERE sequence > :after ORDER BY sequence", {"after": after}):
            yield [Charge(*row) for row in page]

    def all_refunds(self, after: int) -> Iterator[Sequence[Refund]]:
        """Yield pages of all refunds after the sequence `after`, oldest first."""
        for page in self._pages(f"{_REFUND} WHERE r.sequence > :after ORDER BY r.sequence", {"after": after}):
            yield [Refund(*row) for row in page]

    def statement(self, start: str, end: str) -> Iterator[Sequence[tuple[object, ...]]]:
        """Yield pages of the lines of the statement for `start` <= time < `end`, ordered by time."""
        for page in self._pages(_STATEMENT, {"start": start, "end": end}):
            yield [
                (charge_id, key, kind, amount, _fee(amount) if kind == "charge" else 0, currency, created_at)
                for charge_id, key, kind, amount, currency, created_at in page
            ]

    def _pages(self, query: str, values: dict[str, object]) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Yield the rows of `query` from one committed snapshot, on a separate connection."""
        connection = sqlite3.connect(self._file, isolation_level=None)
        try:
            cursor = connection.execute(query, values)
            while page := cursor.fetchmany(PAGE_ROWS):
                yield page
        finally:
            connection.close()


def as_json(entry: Charge | Refund) -> dict[str, Any]:
    """Return the entry as responses contain it."""
    value = asdict(entry)
    if isinstance(entry, Refund):
        value["status"] = "succeeded"
    return value
