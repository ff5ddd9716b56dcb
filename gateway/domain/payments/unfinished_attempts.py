"""Find attempts without an outcome whose message was acknowledged: their worker may have died."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from gateway.domain.payments.kinds import KINDS, Kind
from gateway.domain.shared.sql import LISTED


@dataclass(slots=True)
class Unfinished:
    """The ids of a list whose newest attempt has no outcome."""

    leased: list[UUID] = field(default_factory=list)
    """Their lease has not expired: a worker still processes them, or died."""
    lease_seconds: int = 0
    """The time until the last of these leases expires, in whole seconds."""
    interrupted: list[UUID] = field(default_factory=list)
    """Their lease has expired: the worker died."""


def _find(kind: Kind) -> TextClause:
    return text(f"""
        WITH {LISTED}
        SELECT l.id, CAST(ceil(extract(epoch FROM a.lease_until - now())) AS int) AS seconds_left
        FROM listed l CROSS JOIN LATERAL (
            SELECT outcome, lease_until FROM {kind.attempts} WHERE {kind.key} = l.id ORDER BY number DESC LIMIT 1
        ) a
        WHERE a.outcome IS NULL
    """)  # noqa: S608  # constants


_FIND = {kind: _find(kind) for kind in KINDS}


def find(connection: Connection, kind: Kind, ids: Sequence[UUID]) -> Unfinished:
    """Return those of `ids` whose newest attempt has no outcome."""
    found = Unfinished()
    for row in connection.execute(_FIND[kind], {"ids": list(ids)}):
        if row.seconds_left > 0:
            found.leased.append(row.id)
            found.lease_seconds = max(found.lease_seconds, row.seconds_left)
        else:
            found.interrupted.append(row.id)
    return found
