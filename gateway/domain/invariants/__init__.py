"""Invariants of the database, and their check."""
