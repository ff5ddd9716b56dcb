"""Folding what postings changed into the balances."""

from gateway import db
from gateway.domain import balances

BATCH = 1_000
BATCHES_MAX = 50


def fold() -> int:
    """Fold the changes of this moment in batches of one commit each; how many they were. Two at once do each once."""
    folded = 0
    for _ in range(BATCHES_MAX):
        with db.autocommit() as connection:
            batch = balances.fold(connection, BATCH)
        folded += batch
        if batch < BATCH:
            break
    return folded
