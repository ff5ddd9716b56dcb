"""How many wrong passwords are taken, so that nobody guesses one and nobody closes an account for its owner.

Each try takes one token from each bucket that applies, before the password is checked; a right password puts them back.
All processes share the buckets (rate_limits.py), which know an account by the digest of its e-mail, whether or not
there is such a user.

| A try | Is limited by |
| --- | --- |
| from a device that is known to the account | `DEVICE`; beyond it, as from an unknown device |
| from an unknown device | `ADDRESS` of wherever it comes from, and then one of the next two |
| the first ones for an account from an address | `FIRST_TRIES` of this account from this address |
| more of them | `ACCOUNT`, which all addresses that have used up their first tries share |

So whoever tries from many addresses shares `ACCOUNT` with all the others, while an address that has not failed for this
account lately always gets its first tries, whatever others do. `ADDRESS` is taken first, so it also bounds how many
buckets an address can make by trying random e-mails; buckets that are full again are purged.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from gateway.domain import audit, rate_limits
from gateway.domain.rate_limits import Lease, Limit, network_of

FIRST_TRIES = Limit(per_second=5 / 3_600, burst=5)
ACCOUNT = Limit(per_second=10 / 60, burst=100)
"""NIST SP 800-63B (5.2.2) allows 100 wrong passwords in a row."""
ADDRESS = Limit(per_second=20 / 60, burst=200)
"""For whatever accounts. More than one account takes, so that tries for one do not close an address that many share."""
DEVICE = Limit(per_second=10 / 60, burst=20)

Limited = Literal["account", "address"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A try that may be made, and the buckets that it took a token from."""

    buckets: tuple[tuple[str, Limit], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A try that may not be made now, by which limit, and the seconds until it may."""

    by: Limited
    wait_seconds: float


def take(connection: Connection, email: str, address: str | None, device_id: bytes | None) -> Taken | Refused:
    """Take the tokens of one try for the account of `email` in lower case; a refused try takes none.

    `device_id` is that of a device that is known to the account. `connection` is in autocommit, as for any lease.
    """
    if device_id is not None:
        of_device = (f"login-device:{device_id.hex()}", DEVICE)
        if _lease(connection, of_device).granted:
            return Taken((of_device,))
    network = network_of(address)
    of_address = (f"login-address:{network}", ADDRESS)
    lease = _lease(connection, of_address)
    if not lease.granted:
        return Refused("address", lease.wait_seconds)
    account = _account(email)
    waits = []
    for bucket in ((f"{account}@{network}", FIRST_TRIES), (account, ACCOUNT)):
        lease = _lease(connection, bucket)
        if lease.granted:
            return Taken((of_address, bucket))
        waits.append(lease.wait_seconds)
    give_back(connection, Taken((of_address,)))
    return Refused("account", min(waits))


def give_back(connection: Connection, taken: Taken) -> None:
    """Put the tokens of a try back: its password was right, or was not checked."""
    for subject, limit in taken.buckets:
        rate_limits.give_back(connection, subject, limit)


def unlock(connection: Connection, *, email: str, user_id: str, actor: str) -> int:
    """Forget all wrong passwords for the account of `email` in lower case; return how many buckets were removed."""
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
