"""The backlog, the state of the queues, and the retention of old rows."""
