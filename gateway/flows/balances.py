"""Fold the changes of postings into the balances, and check the balances against the ledger."""

from loguru import logger
from sqlalchemy import text

from gateway import db
from gateway.domain.payments import balances
from gateway.domain.payments.balances import Misstated
from gateway.domain.shared import alerts
from gateway.flows.upkeep import in_batches

CHECK_SECONDS = 900
"""Maximum time of a check, which reads the whole ledger."""
MISSTATED_MAX = 20
"""Maximum number of balances that one alert names."""


def fold() -> int:
    """Fold the current changes in batches; return their number. Concurrent folds handle each change once."""
    return in_batches(_fold)


def _fold(limit: int) -> int:
    with db.autocommit() as connection:
        return balances.fold(connection, limit)


def check() -> list[Misstated]:
    """Return the balances that differ from the ledger, and raise a critical alert that names them.

    Raises:
        sqlalchemy.exc.OperationalError: it took longer than `CHECK_SECONDS`, or the database became unavailable.
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
                    "what_to_do": "The ledger is right. Stop beat, then recompute these rows of balances from "
                    "ledger_entries, minus balance_changes. flask balances lists them.",
                },
            )
    logger.info("the balances were compared with the ledger: {} differ", len(found))
    return found
