"""Folding what postings changed into the balances, and checking these against the ledger."""

from loguru import logger
from sqlalchemy import text

from gateway import db
from gateway.domain.payments import balances
from gateway.domain.payments.balances import Misstated
from gateway.domain.shared import alerts
from gateway.flows.batches import in_batches

CHECK_SECONDS = 900
"""The longest that a check may take: it reads the whole ledger."""
MISSTATED_MAX = 20
"""Misstated balances that one check names."""


def fold() -> int:
    """Fold the changes of this moment in batches of one commit each; how many they were. Two at once do each once."""
    return in_batches(_fold)


def _fold(limit: int) -> int:
    with db.autocommit() as connection:
        return balances.fold(connection, limit)


def check() -> list[Misstated]:
    """The balances that differ from the ledger; a critical alert names them.

    Raises:
        sqlalchemy.exc.OperationalError: it took longer than `CHECK_SECONDS`, or the database went away.
    """
    with db.begin() as connection, db.answer_timeout(CHECK_SECONDS):
        connection.execute(text(f"SET LOCAL statement_timeout = '{CHECK_SECONDS}s'"))
        found = balances.misstated(connection, MISSTATED_MAX)
        if found:
            listed = [f"{row.merchant_id}/{row.currency}: {row.kept or 'none'}, not {row.posted}" for row in found]
            alerts.raise_alert(
                connection,
                "critical",
                f"Balances differ from the ledger; first {listed[0]}",
                {
                    "kind": "misstated_balance",
                    "count": len(found),
                    "balances": listed,
                    "what_to_do": "The ledger is right. Stop folding (beat), then make these rows of balances again "
                    "from ledger_entries, less what balance_changes holds; flask balances shows them.",
                },
            )
    logger.info("the balances were checked against the ledger: {} differ", len(found))
    return found
