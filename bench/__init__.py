"""The benchmark: the gateway and a plain Celery pipeline in turn on the same servers. Nothing here is deployed."""
