"""Working off many rows in batches of one commit each, so that no lock is held for long."""

from collections.abc import Callable

BATCH = 1_000
BATCHES_MAX = 50
"""One scheduled run does no more than so many, and so ends; the next one goes on."""


def in_batches(step: Callable[[int], int]) -> int:
    """Repeat `step`, which does at most `BATCH` things and says how many it did, until it finds fewer; their sum."""
    done = 0
    for _ in range(BATCHES_MAX):
        batch = step(BATCH)
        done += batch
        if batch < BATCH:
            break
    return done
