"""A payment gateway: it accepts payments over HTTP and settles each of them exactly once.

PostgreSQL is the source of truth, and RabbitMQ distributes the work. Import from the modules; this package re-exports
nothing.
"""

__version__ = "1.0.0"
"""The only place of the version: pyproject.toml, the OpenAPI document and outgoing requests read it."""

USER_AGENT = f"payment-gateway/{__version__}"
"""The `User-Agent` header of outgoing HTTP requests."""
