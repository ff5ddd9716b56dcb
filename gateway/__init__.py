"""A payment gateway: accepts payments over HTTP and settles each of them exactly once.

PostgreSQL is the truth, RabbitMQ carries the work. Import from the modules; this package re-exports nothing.
"""
