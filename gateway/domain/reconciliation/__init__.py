"""Reconciliation of transactions with settlements, ledger and provider statements."""
