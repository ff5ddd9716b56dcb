"""Attempts at what providers are asked to do, charges and refunds alike: claiming them, and recording their outcomes.

The attempt's row is the claim: its primary key (subject, number) lets one worker in, its lease says for how long, and
its number counts against the subject's limit whatever queue, retry or redelivery brought the work. Claiming is one
statement, and so is recording: one round trip and one commit for a list of any length.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from gateway.db import LISTED, ONE_EXPECTED
from gateway.outcomes import Approved, Instruction, Outcome
from gateway.states import AttemptOutcome

InstructionT = TypeVar("InstructionT", bound=Instruction)
ClaimT = TypeVar("ClaimT", bound="AttemptClaim[Any]")

_MAY_HAVE_HAPPENED = frozenset({AttemptOutcome.UNKNOWN, AttemptOutcome.APPROVED})
"""Approved, yet still unfinished: the answer came after the subject had been given up."""


@dataclass(frozen=True, slots=True)
class AttemptClaim(Generic[InstructionT]):
    """The right to send one instruction to its provider once, until the lease ends.

    `in_doubt` tells that the attempt before this one has no known outcome: query the status before sending it.
    """

    instruction: InstructionT
    merchant_id: UUID
    provider: str
    in_doubt: bool
    last_attempt: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class Room:
    """The number of attempts that may be claimed now: in total, for each of some merchants, for any other merchant."""

    free: int
    of_others: int
    of_merchants: Mapping[UUID, int]
    note_seconds: float = 60.0
    """Minimum interval at which the rows that find no room are marked as not stuck."""

    def holds(self, number: int) -> bool:
        """Return whether this number may be claimed, regardless of the merchants."""
        return number <= min(self.free, self.of_others, *self.of_merchants.values())

    def split(self, ids: Sequence[UUID]) -> tuple[Sequence[UUID], Sequence[UUID]]:
        """Split a list into the ids to claim now and the others: more than `free` would find no room anyway.

        The first part has at least two ids, because a single id is claimed under other conditions.
        """
        worth = len(ids) if self.holds(len(ids)) else max(2, self.free)
        return ids[:worth], ids[worth:]


@dataclass(slots=True)
class Claimed(Generic[ClaimT]):
    """What a list of ids came to."""

    claims: list[ClaimT] = field(default_factory=list)
    busy: list[UUID] = field(default_factory=list)
    """Another worker holds them, or held them when it died: come back when the lease is over."""
    busy_seconds: int = 0
    """The time until the last of their leases is over, in whole seconds."""
    interrupted: list[UUID] = field(default_factory=list)
    """Their last worker died. In a list they might kill this one too, so each is to travel alone."""
    exhausted: list[UUID] = field(default_factory=list)
    nonexistent: list[UUID] = field(default_factory=list)
    completed: list[UUID] = field(default_factory=list)
    waiting: list[UUID] = field(default_factory=list)
    """There was no room for them."""


@dataclass(frozen=True, slots=True)
class ClaimStatements:
    """`all` claims everything that may be claimed, `some` only as many as there is room for."""

    all: TextClause
    some: TextClause


_FITTING = """, fitting AS MATERIALIZED (
            SELECT id FROM (
                SELECT o.id, row_number() OVER (ORDER BY o.turn, o.id) AS nth
                FROM (
                    SELECT id, merchant_id, row_number() OVER (PARTITION BY merchant_id ORDER BY id) AS turn
                    FROM wanted WHERE {open}
                ) o
                LEFT JOIN unnest(CAST(:merchant_ids AS uuid[]), CAST(:rooms AS int[])) AS r (merchant_id, room)
                    ON r.merchant_id = o.merchant_id
                WHERE o.turn <= coalesce(r.room, :room_of_others)
            ) AS ordered
            WHERE nth <= :room
        ), touched AS (
            UPDATE {subjects} s SET requeued_at = now()
            FROM (SELECT id FROM wanted WHERE {open} AND id NOT IN (SELECT id FROM fitting)) w
            WHERE s.id = w.id
              AND greatest(s.updated_at, s.requeued_at) < now() - make_interval(secs => :note_seconds)
        )"""
"""CTEs that select what fits into the room, in turns among the merchants, and mark the rest as not stuck, because it is
requeued until there is room."""


def claim_statements(
    *, source: str, columns: str, subjects: str, attempts: str, key: str, open_status: str
) -> ClaimStatements:
    """Return the statements of `claim` for the `subjects` `s` in `source`; their `attempts` refer to them by `key`.

    Their rows contain `columns` besides what `claim` reads: `id`, `status`, `number` of the last attempt, and others.
    """
    is_open = f"status = '{open_status}' AND number < attempt_limit AND (NOT unfinished OR (:alone AND NOT leased))"
    fitting = _FITTING.format(open=is_open, subjects=subjects)
    parts = {"source": source, "columns": columns, "attempts": attempts, "key": key, "open": is_open}
    return ClaimStatements(
        all=_claim_statement(**parts, fitting="", fits="true"),
        some=_claim_statement(**parts, fitting=fitting, fits="id IN (SELECT id FROM fitting)"),
    )


def _claim_statement(
    *, source: str, columns: str, attempts: str, key: str, open: str, fitting: str, fits: str
) -> TextClause:
    return text(f"""
        WITH {LISTED}, wanted AS MATERIALIZED (
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
            FROM wanted
            WHERE {open} AND {fits}
            ON CONFLICT DO NOTHING
            RETURNING {key}
        ), closed_attempt AS (
            UPDATE {attempts} a
            SET outcome = 'unknown', finished_at = now(), code = 'worker_lost',
                message = 'The worker died during the call.'
            FROM wanted w
            WHERE :alone AND w.unfinished AND w.id IN (SELECT {key} FROM claimed)
              AND a.{key} = w.id AND a.number = w.number AND a.outcome IS NULL
        )
        SELECT w.*, w.id IN (SELECT {key} FROM claimed) AS claimed, {fits} AS fits FROM wanted w
    """)  # noqa: S608  # the parts are constants of the callers


def claim(
    connection: Connection,
    statements: ClaimStatements,
    ids: Sequence[UUID],
    *,
    task_id: str,
    lease_seconds: int,
    room: Room | None,
    open_status: str,
    of_row: Callable[[Any, bool], ClaimT],
) -> Claimed[ClaimT]:
    """Start an attempt at each of `ids` that may have one, as far as there is `room`; classify the others by reason.

    `of_row` creates the claim of a claimed row; its argument says whether the previous attempt is in doubt.
    """
    values = {"ids": list(ids), "task_id": task_id, "lease_seconds": lease_seconds, "alone": len(ids) == 1}
    statement = statements.all
    if room is not None and not room.holds(len(ids)):
        statement = statements.some
        values |= {
            "merchant_ids": list(room.of_merchants),
            "rooms": list(room.of_merchants.values()),
            "room_of_others": room.of_others,
            "room": room.free,
            "note_seconds": room.note_seconds,
        }
    wanted = {row.id: row for row in connection.execute(statement, values)}
    result = Claimed[ClaimT](nonexistent=[id for id in ids if id not in wanted])
    for row in wanted.values():
        if row.claimed:
            result.claims.append(of_row(row, row.unfinished or row.outcome in _MAY_HAVE_HAPPENED))
        elif row.status == "completed":
            result.completed.append(row.id)
        elif row.status != open_status:
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


def results_cte(*, attempts: str, key: str, open_status: str, **more: str) -> str:
    """CTEs that read the arrays of `results`, and of `more` (name to type), as `result`, and finish the attempts.

    Subjects are to be compared with `result.open_status`, not with the literal: given that, the planner may read all
    subjects that are open, by an index on the status, for every row of a list.
    """
    types = {"id": "uuid", "number": "int"} | dict.fromkeys(
        ("outcome", "code", "message", "provider_reference"), "text"
    )
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in (types | more).items())
    return f"""result AS MATERIALIZED (
        SELECT *, '{open_status}' AS open_status FROM unnest({arrays}) AS r ({", ".join(types | more)})
        WHERE {ONE_EXPECTED}
    ), attempt AS (
        UPDATE {attempts} a
        SET outcome = r.outcome, code = r.code, message = r.message, finished_at = now()
        FROM result r WHERE a.{key} = r.id AND a.number = r.number
    )"""  # noqa: S608  # the parts are constants of the callers


DECLINED_COLUMNS = ", ".join(
    f"failure_{name} = CASE WHEN r.outcome = 'declined' THEN {value} END"
    for name, value in (
        ("code", "r.code"),
        ("message", "r.message"),
        ("category", "'declined'"),
        ("retryable", "false"),
    )
)
"""Assignments that keep, on the subject, why a provider declined it; `r` is its row of `result`."""


def results(outcomes: Sequence[tuple[AttemptClaim[Any], Outcome]]) -> dict[str, Any]:
    """The arrays that `results_cte` reads."""
    return {
        "id": [claim.instruction.id for claim, _ in outcomes],
        "number": [claim.instruction.attempt for claim, _ in outcomes],
        "outcome": [type(outcome).__name__.lower() for _, outcome in outcomes],
        "code": [None if isinstance(outcome, Approved) else outcome.code for _, outcome in outcomes],
        "message": [None if isinstance(outcome, Approved) else outcome.message for _, outcome in outcomes],
        "provider_reference": [outcome.reference if isinstance(outcome, Approved) else None for _, outcome in outcomes],
    }


@dataclass(frozen=True, slots=True)
class Recorded:
    """A subject's status after recording; `seconds` is its age since acceptance."""

    id: UUID
    status: str
    created_at: datetime
    recorded_at: datetime

    @property
    def seconds(self) -> float:
        """Time since it was accepted."""
        return (self.recorded_at - self.created_at).total_seconds()


def exhaust_statement(*, subjects: str, attempts: str, key: str, unfinished: str) -> TextClause:
    """The statement that allows no further attempt at those of `:ids` that are `unfinished`, because of `:error`."""
    return text(f"""
        UPDATE {subjects} s
        SET attempt_limit = (SELECT coalesce(max(number), 0) FROM {attempts} WHERE {key} = s.id),
            last_error = :error, updated_at = now()
        WHERE s.id = ANY(CAST(:ids AS uuid[])) AND s.status IN ({unfinished})
    """)  # noqa: S608  # the parts are constants of the callers
