"""What several subjects use: outbox, events, alerts, audit log, lists, idempotency."""
