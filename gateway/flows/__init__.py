"""Flows: claim (commit), call a third party, record (commit). No database connection is held during the call."""
