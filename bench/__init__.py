"""The benchmark: the gateway beside a plain Celery pipeline, in turn, on the same servers. Nothing here is deployed."""
