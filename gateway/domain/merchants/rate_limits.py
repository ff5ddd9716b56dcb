"""Token buckets in PostgreSQL: one rate for all processes of all hosts.

A process does not ask for each request. It leases a block of tokens and spends them in its own memory
(gateway/api/access/rate_limits.py), so processes share only the bucket, and no payment waits for its row:
each lease is a statement, and so a commit, of its own. The table is UNLOGGED: such a commit writes nothing to disk.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from sqlalchemy import Connection, text

IDLE_SECONDS = 3_600
"""By every default limit a bucket that rested this long is full again, so that its row says nothing any more."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests per second on average, and `burst` at once after a rest.

    Who runs into the limit cannot use the bucket's last `reserve` tokens until it has been full again. So a caller who
    rests may spend a whole second's requests at once, while one who never rests gets `per_second` and no burst on top.
    """

    per_second: float
    burst: int
    reserve: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """Tokens that now belong to the process that asked; `wait_seconds` until the bucket has the next one."""

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
    """Take up to `wanted` tokens, at most the burst, from the subject's bucket; a new bucket is full.

    `connection` is in autocommit: the row is held for this one statement.
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
    """Put one token back: what it was taken for does not count."""
    connection.execute(_GIVE_BACK, {"subject": subject, "burst": limit.burst})


def remove(connection: Connection, prefix: str) -> int:
    """Delete the buckets whose subject begins with `prefix`, which resets them; return the number deleted."""
    return connection.execute(_REMOVE, {"prefix": prefix}).rowcount


def purge(connection: Connection, limit: int) -> int:
    """Delete at most `limit` buckets that are full again; the number deleted."""
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
