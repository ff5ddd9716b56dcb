"""Transactions, charges, settlements, refunds and balances."""
