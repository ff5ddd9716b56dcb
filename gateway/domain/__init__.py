"""The rules. Functions take a `Connection`, never commit, never publish, never call a network.

They may import each other only downwards in this order (import-linter checks it):
reconciliation, operations > dead_letters > rescue > settlements > routing > transactions > idempotency
> merchants > alerts > audit > outbox > ids.
"""
