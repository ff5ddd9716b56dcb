"""Record the outcomes of attempts at charges and refunds: one statement for a list of any length."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from gateway.domain.payments.attempts import AttemptClaim
from gateway.domain.payments.kinds import KINDS, Kind
from gateway.domain.shared.sql import ONE_EXPECTED
from gateway.outcomes import Approved, Outcome


def results_cte(kind: Kind, **more: str) -> str:
    """Return CTEs that read the arrays of `values`, and of `more` (name to type), as `result`, and finish the attempts.

    The statement must compare the status with `result.open_status`, not with the literal. With the literal, the planner
    may read all open objects by an index on the status, for every row of a list.
    """
    types = {"id": "uuid", "number": "int"} | dict.fromkeys(
        ("outcome", "code", "message", "provider_reference"), "text"
    )
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in (types | more).items())
    return f"""result AS MATERIALIZED (
        SELECT *, '{kind.open_status}' AS open_status FROM unnest({arrays}) AS r ({", ".join(types | more)})
        WHERE {ONE_EXPECTED}
    ), attempt AS (
        UPDATE {kind.attempts} a
        SET outcome = r.outcome, code = r.code, message = r.message, finished_at = now()
        FROM result r WHERE a.{kind.key} = r.id AND a.number = r.number
    )"""  # noqa: S608  # constants


DECLINED_COLUMNS = ", ".join(
    f"failure_{name} = CASE WHEN r.outcome = 'declined' THEN {value} END"
    for name, value in (
        ("code", "r.code"),
        ("message", "r.message"),
        ("category", "'declined'"),
        ("retryable", "false"),
    )
)
"""Assignments that store why a provider declined the object; `r` is its row of `result`."""


def values(outcomes: Sequence[tuple[AttemptClaim[Any], Outcome]]) -> dict[str, Any]:
    """Return the arrays that `results_cte` reads."""
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
    """The status of a transaction or refund after its attempt was recorded."""

    id: UUID
    status: str
    created_at: datetime
    recorded_at: datetime

    @property
    def seconds(self) -> float:
        """Return the time since it was accepted."""
        return (self.recorded_at - self.created_at).total_seconds()


def _exhaust(kind: Kind) -> TextClause:
    return text(f"""
        UPDATE {kind.table} s
        SET attempt_limit = (SELECT coalesce(max(number), 0) FROM {kind.attempts} WHERE {kind.key} = s.id),
            last_error = :error, updated_at = now()
        WHERE s.id = ANY(CAST(:ids AS uuid[])) AND s.status IN ({kind.unfinished})
    """)  # noqa: S608  # constants


_EXHAUST = {kind: _exhaust(kind) for kind in KINDS}


def exhaust(connection: Connection, kind: Kind, ids: Sequence[UUID], error: str) -> None:
    """Allow no further attempt at the unfinished ones of `ids`, because of an `error` that a retry cannot solve."""
    connection.execute(_EXHAUST[kind], {"ids": list(ids), "error": error})
