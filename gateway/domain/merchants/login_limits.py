"""Limits of wrong passwords, which prevent guessing without locking the owner out of the account.

Each attempt takes one token from each bucket that applies, before the password is checked; a right password returns
them. All processes share the buckets (rate_limits.py). An account is identified by the digest of its email, whether or
not the user exists.

| Attempt | Limited by |
| --- | --- |
| from a device that is known to the account | `DEVICE`; above it, like an unknown device |
| from an unknown device | `ADDRESS` of the client, and then one of the next two |
| the first ones for an account from an address | `FIRST_TRIES` of this account from this address |
| further ones | `ACCOUNT`, shared by all addresses that have used up their first attempts |

Thus an attacker with many addresses only exhausts `ACCOUNT`, while an address without recent failures for this account
always has its first attempts. `ADDRESS` is taken first, so it also limits the number of buckets that an address can
create with random emails. Full buckets are purged.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from gateway.domain.merchants import rate_limits
from gateway.domain.merchants.rate_limits import Lease, Limit, network_of
from gateway.domain.shared import audit

FIRST_TRIES = Limit(per_second=5 / 3_600, burst=5)
ACCOUNT = Limit(per_second=10 / 60, burst=100)
"""NIST SP 800-63B (5.2.2) allows 100 wrong passwords in a row."""
ADDRESS = Limit(per_second=20 / 60, burst=200)
"""For all accounts together. It exceeds the limits of one account, so attempts at one do not block a shared address."""
DEVICE = Limit(per_second=10 / 60, burst=20)

Limited = Literal["account", "address"]


@dataclass(frozen=True, slots=True)
class AllowedAttempt:
    """An attempt that is allowed, and the buckets from which it took a token."""

    buckets: tuple[tuple[str, Limit], ...]


@dataclass(frozen=True, slots=True)
class RefusedAttempt:
    """An attempt that is not allowed now, the limit, and the seconds until it is allowed."""

    by: Limited
    wait_seconds: float


def take(
    connection: Connection, email: str, address: str | None, device_id: bytes | None
) -> AllowedAttempt | RefusedAttempt:
    """Take the tokens of one attempt for the account of `email` in lower case; a refused attempt takes none.

    `device_id` is the id of a device that is known to the account. `connection` is in autocommit, as for any lease.
    """
    if device_id is not None:
        of_device = (f"login-device:{device_id.hex()}", DEVICE)
        if _lease(connection, of_device).granted:
            return AllowedAttempt((of_device,))
    network = network_of(address)
    of_address = (f"login-address:{network}", ADDRESS)
    lease = _lease(connection, of_address)
    if not lease.granted:
        return RefusedAttempt("address", lease.wait_seconds)
    account = _account(email)
    waits = []
    for bucket in ((f"{account}@{network}", FIRST_TRIES), (account, ACCOUNT)):
        lease = _lease(connection, bucket)
        if lease.granted:
            return AllowedAttempt((of_address, bucket))
        waits.append(lease.wait_seconds)
    give_back(connection, AllowedAttempt((of_address,)))
    return RefusedAttempt("account", min(waits))


def give_back(connection: Connection, taken: AllowedAttempt) -> None:
    """Return the tokens of an attempt whose password was right or was not checked."""
    for subject, limit in taken.buckets:
        rate_limits.give_back(connection, subject, limit)


def unlock(connection: Connection, *, email: str, user_id: str, actor: str) -> int:
    """Reset the limits of the account of `email` in lower case; return the number of removed buckets."""
    removed = rate_limits.remove(connection, _account(email))
    audit.record(
        connection, actor=actor, action="user.unlocked", subject=user_id, detail={"email": email, "removed": removed}
    )
    return removed


def _account(email: str) -> str:
    return f"login:{hashlib.sha256(email.encode()).hexdigest()}"


def _lease(connection: Connection, bucket: tuple[str, Limit]) -> Lease:
    subject, limit = bucket
    return rate_limits.lease(connection, subject, limit, 1)
