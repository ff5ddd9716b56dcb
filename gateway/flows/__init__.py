"""Flows: claim (commit), call a third party, record (commit). No connection is held during the call."""
