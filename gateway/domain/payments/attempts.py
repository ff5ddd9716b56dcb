"""Claim attempts at charges and refunds.

The row of an attempt is the claim. Its primary key (object, number) admits one worker, its lease limits the time, and
its number counts against the object's limit, whatever queue, retry or redelivery brought the work. A list of any length
is claimed by one statement: one round trip and one commit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from gateway.domain.payments.kinds import Kind
from gateway.domain.shared.sql import LISTED
from gateway.outcomes import Instruction
from gateway.states import AttemptOutcome

InstructionT = TypeVar("InstructionT", bound=Instruction)
ClaimT = TypeVar("ClaimT", bound="AttemptClaim[Any]")

_MAY_HAVE_HAPPENED = frozenset({AttemptOutcome.UNKNOWN, AttemptOutcome.APPROVED})
"""Outcomes after which the provider may have processed the instruction. `approved` occurs if it arrived after the last
lease."""


@dataclass(frozen=True, slots=True)
class AttemptClaim(Generic[InstructionT]):
    """The right to send one instruction to its provider once, until the lease ends.

    `in_doubt`: the outcome of the previous attempt is unknown, so the status must be queried before this one is sent.
    """

    instruction: InstructionT
    merchant_id: UUID
    provider: str
    in_doubt: bool
    last_attempt: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """The number of attempts that may be claimed now: in total, for each of some merchants, for any other merchant."""

    free: int
    of_others: int
    of_merchants: Mapping[UUID, int]
    note_seconds: float = 60.0
    """Minimum interval at which the rows without capacity are marked as not stuck."""

    def holds(self, number: int) -> bool:
        """Return whether this number may be claimed, regardless of the merchants."""
        return number <= min(self.free, self.of_others, *self.of_merchants.values())

    def split(self, ids: Sequence[UUID]) -> tuple[Sequence[UUID], Sequence[UUID]]:
        """Split a list into the ids to claim now and the others: there is no capacity for more than `free` anyway.

        The first part has at least two ids, because a single id is claimed under other conditions.
        """
        length = len(ids) if self.holds(len(ids)) else max(2, self.free)
        return ids[:length], ids[length:]


@dataclass(slots=True)
class Claimed(Generic[ClaimT]):
    """The claims of a list of ids, and the other ids by the reason why they were not claimed."""

    claims: list[ClaimT] = field(default_factory=list)
    busy: list[UUID] = field(default_factory=list)
    """Another worker holds their lease, or held it when it died. They are retried after the lease."""
    busy_seconds: int = 0
    """The time until the last of their leases expires, in whole seconds."""
    interrupted: list[UUID] = field(default_factory=list)
    """Their last worker died. Each must be retried in a separate message, because it may kill this worker too."""
    exhausted: list[UUID] = field(default_factory=list)
    nonexistent: list[UUID] = field(default_factory=list)
    completed: list[UUID] = field(default_factory=list)
    waiting: list[UUID] = field(default_factory=list)
    """There was no capacity for them."""


@dataclass(frozen=True, slots=True)
class ClaimStatements:
    """`all` claims everything that may be claimed, `some` only as many as there is capacity for."""

    kind: Kind
    all: TextClause
    some: TextClause


_FITTING = """, fitting AS MATERIALIZED (
            SELECT id FROM (
                SELECT o.id, row_number() OVER (ORDER BY o.turn, o.id) AS nth
                FROM (
                    SELECT id, merchant_id, row_number() OVER (PARTITION BY merchant_id ORDER BY id) AS turn
                    FROM candidate WHERE {open}
                ) o
                LEFT JOIN unnest(CAST(:merchant_ids AS uuid[]), CAST(:capacities AS int[])) AS r (merchant_id, capacity)
                    ON r.merchant_id = o.merchant_id
                WHERE o.turn <= coalesce(r.capacity, :capacity_of_others)
            ) AS ordered
            WHERE nth <= :capacity
        ), touched AS (
            UPDATE {table} s SET requeued_at = now()
            FROM (SELECT id FROM candidate WHERE {open} AND id NOT IN (SELECT id FROM fitting)) c
            WHERE s.id = c.id
              AND greatest(s.updated_at, s.requeued_at) < now() - make_interval(secs => :note_seconds)
        )"""
"""CTEs that select what fits into the capacity, in turns among the merchants, and mark the rest as not stuck, because
it is requeued until there is capacity."""


def claim_statements(kind: Kind, *, source: str, columns: str) -> ClaimStatements:
    """Return the statements of `claim` for the objects `s` in the joined tables `source`.

    Their rows contain `columns` besides what `claim` reads: `id`, `status`, `number` of the last attempt, and others.
    """
    is_open = (
        f"status = '{kind.open_status}' AND number < attempt_limit AND (NOT unfinished OR (:alone AND NOT leased))"
    )
    fitting = _FITTING.format(open=is_open, table=kind.table)
    parts = {"source": source, "columns": columns, "open": is_open}
    return ClaimStatements(
        kind=kind,
        all=_claim_statement(kind, **parts, fitting="", fits="true"),
        some=_claim_statement(kind, **parts, fitting=fitting, fits="id IN (SELECT id FROM fitting)"),
    )


def _claim_statement(kind: Kind, *, source: str, columns: str, open: str, fitting: str, fits: str) -> TextClause:
    attempts, key = kind.attempts, kind.key
    return text(f"""
        WITH {LISTED}, candidate AS MATERIALIZED (
            SELECT s.id, s.merchant_id, s.status, s.provider, s.attempt_limit, s.request_id, {columns},
                   coalesce(a.number, 0) AS number, a.outcome,
                   a.number IS NOT NULL AND a.outcome IS NULL AS unfinished,
                   coalesce(a.lease_until > now(), false) AS leased,
                   CAST(ceil(extract(epoch FROM a.lease_until - now())) AS int) AS lease_seconds_left
            FROM listed l JOIN ({source}) ON s.id = l.id
            LEFT JOIN LATERAL (
                SELECT number, outcome, lease_until FROM {attempts} WHERE {key} = s.id ORDER BY number DESC LIMIT 1
            ) a ON true
        ){fitting}, claimed AS (
            INSERT INTO {attempts} ({key}, number, provider, task_id, started_at, lease_until)
            SELECT id, number + 1, provider, :task_id, now(), now() + make_interval(secs => :lease_seconds)
            FROM candidate
            WHERE {open} AND {fits}
            ON CONFLICT DO NOTHING
            RETURNING {key}
        ), closed_attempt AS (
            UPDATE {attempts} a
            SET outcome = 'unknown', finished_at = now(), code = 'worker_lost',
                message = 'The worker died during the call.'
            FROM candidate c
            WHERE :alone AND c.unfinished AND c.id IN (SELECT {key} FROM claimed)
              AND a.{key} = c.id AND a.number = c.number AND a.outcome IS NULL
        )
        SELECT c.*, c.id IN (SELECT {key} FROM claimed) AS claimed, {fits} AS fits FROM candidate c
    """)  # noqa: S608  # constants


def claim(
    connection: Connection,
    statements: ClaimStatements,
    ids: Sequence[UUID],
    *,
    task_id: str,
    lease_seconds: int,
    capacity: Capacity | None,
    of_row: Callable[[Any, bool], ClaimT],
) -> Claimed[ClaimT]:
    """Start an attempt at each of `ids` that may have one, within `capacity`; classify the others by reason.

    `of_row` creates the claim of a claimed row; its argument says whether the previous attempt is in doubt.
    """
    values = {"ids": list(ids), "task_id": task_id, "lease_seconds": lease_seconds, "alone": len(ids) == 1}
    statement = statements.all
    if capacity is not None and not capacity.holds(len(ids)):
        statement = statements.some
        values |= {
            "merchant_ids": list(capacity.of_merchants),
            "capacities": list(capacity.of_merchants.values()),
            "capacity_of_others": capacity.of_others,
            "capacity": capacity.free,
            "note_seconds": capacity.note_seconds,
        }
    candidates = {row.id: row for row in connection.execute(statement, values)}
    result = Claimed[ClaimT](nonexistent=[id for id in ids if id not in candidates])
    for row in candidates.values():
        if row.claimed:
            result.claims.append(of_row(row, row.unfinished or row.outcome in _MAY_HAVE_HAPPENED))
        elif row.status == "completed":
            result.completed.append(row.id)
        elif row.status != statements.kind.open_status:
            continue  # a duplicate of work that ended otherwise, or that is not routed yet
        elif row.unfinished and row.leased:
            result.busy.append(row.id)
            result.busy_seconds = max(result.busy_seconds, row.lease_seconds_left)
        elif row.number >= row.attempt_limit:
            result.exhausted.append(row.id)
        elif row.unfinished and len(ids) > 1:
            result.interrupted.append(row.id)
        elif not row.fits:
            result.waiting.append(row.id)
        else:
            result.busy.append(row.id)  # claimed by another worker while this statement ran
            result.busy_seconds = lease_seconds
    return result
