"""Token buckets in PostgreSQL: one rate for all processes of all hosts.

A process leases a block of tokens and spends them in its own memory (gateway/api/access/rate_limits.py). Each lease is
a separate commit, so no payment waits for the row of a bucket. The table is UNLOGGED, so the commit does not write to
disk.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from sqlalchemy import Connection, text

IDLE_SECONDS = 3_600
"""With the default limits, a bucket that was not used for this time is full again, so its row can be deleted."""


@dataclass(frozen=True, slots=True)
class Limit:
    """An average number of requests per second, and a `burst` after a pause.

    A caller that reaches the limit cannot use the last `reserve` tokens until the bucket has been full again. So a
    caller that pauses may send a second's requests in a burst, and one that never pauses gets only `per_second`.
    """

    per_second: float
    burst: int
    reserve: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A number of granted tokens, and the time until the bucket has the next one."""

    granted: int
    wait_seconds: float


_LEASE = text("""
    INSERT INTO rate_limits AS bucket (subject, tokens, granted, pacing, refilled_at)
    VALUES (:subject, :burst - :wanted, :wanted, false, now())
    ON CONFLICT (subject) DO UPDATE SET (tokens, granted, pacing, refilled_at) = (
        SELECT filled - got, got, paced OR got < :wanted, greatest(now(), bucket.refilled_at)
        FROM (SELECT least(:burst, bucket.tokens + :per_second * greatest(
                  0, extract(epoch FROM now() - bucket.refilled_at)::double precision)) AS filled) AS refill,
             LATERAL (SELECT bucket.pacing AND filled < :burst AS paced) AS pace,
             LATERAL (SELECT greatest(0, least(:wanted, floor(
                  filled - CASE WHEN paced THEN :reserve ELSE 0 END)::integer)) AS got) AS lease)
    RETURNING granted, tokens, pacing
""")
_GIVE_BACK = text("UPDATE rate_limits SET tokens = least(:burst, tokens + 1) WHERE subject = :subject")
_REMOVE = text("DELETE FROM rate_limits WHERE starts_with(subject, :prefix)")
_PURGE = text("""
    DELETE FROM rate_limits WHERE subject IN (
        SELECT subject FROM rate_limits WHERE refilled_at < now() - make_interval(secs => :idle_seconds)
        LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def lease(connection: Connection, subject: str, limit: Limit, wanted: int) -> Lease:
    """Take up to `wanted` tokens, at most the burst, from the bucket of `subject`. A new bucket is full.

    `connection` is in autocommit, so the row is locked for this statement only.
    """
    values = {
        "subject": subject,
        "burst": limit.burst,
        "per_second": limit.per_second,
        "reserve": limit.reserve,
        "wanted": wanted,
    }
    row = connection.execute(_LEASE, values).one()
    missing = 1 + (limit.reserve if row.pacing else 0) - row.tokens
    return Lease(row.granted, max(0.0, missing / limit.per_second))


def give_back(connection: Connection, subject: str, limit: Limit) -> None:
    """Return one token to the bucket."""
    connection.execute(_GIVE_BACK, {"subject": subject, "burst": limit.burst})


def remove(connection: Connection, prefix: str) -> int:
    """Delete the buckets whose subject begins with `prefix`, which resets them; return the number deleted."""
    return connection.execute(_REMOVE, {"prefix": prefix}).rowcount


def purge(connection: Connection, limit: int) -> int:
    """Delete at most `limit` buckets that are full again; return their number."""
    return connection.execute(_PURGE, {"idle_seconds": IDLE_SECONDS, "limit": limit}).rowcount


def network_of(address: str | None) -> str:
    """Return the network of one client: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address or "")
    except ValueError:  # a Unix socket, or a proxy that sends no address
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)
