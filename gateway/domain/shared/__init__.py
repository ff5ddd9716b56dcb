"""Outbox, events, alerts, audit log, lists and idempotency, which several packages use."""
