"""The Flask application: `gateway.app:app` for the `flask` command, `create_served_app` for the Procfile's server."""

from typing import Any

import flask

from gateway.api.access import tokens
from gateway.api.http import middleware, problems, routes
from gateway.api.http.request_content import BODY_MAX_BYTES
from gateway.api.resources import (
    accounts,
    api_clients,
    audit_log,
    balances,
    dead_letter_jobs,
    dead_letters,
    discrepancies,
    events,
    oauth,
    reconciliations,
    refunds,
    settlements,
    statements,
    timeline,
    transactions,
    webhook_endpoints,
)
from gateway.api.server import connections, limits, sockets
from gateway.api.server.asgi import Server
from gateway.api.server.uploads import UploadGate
from gateway.api.service import docs, health
from gateway.cli import commands
from gateway.config import settings
from gateway.flows import clocks
from gateway.security import client_secrets, device_tokens, encryption, signing_keys
from gateway.telemetry import configure_logging

PARTS = (
    accounts.routes,
    oauth.routes,
    api_clients.routes,
    transactions.routes,
    timeline.routes,
    refunds.routes,
    settlements.routes,
    balances.routes,
    webhook_endpoints.routes,
    events.routes,
    dead_letter_jobs.routes,
    dead_letters.routes,
    reconciliations.routes,
    statements.routes,
    discrepancies.routes,
    audit_log.routes,
    health.routes,
    docs.routes,
)


def create_app() -> flask.Flask:
    """Create an application.

    Raises:
        ConfigError: a setting is missing or malformed; the process should exit with its message.
    """
    settings()
    configure_logging()
    signing_keys.make_ready()
    client_secrets.make_ready()
    encryption.make_ready()
    device_tokens.make_ready()
    clocks.watch()
    app = flask.Flask(__name__, static_folder=None)  # `flask.Flask`, so that tools can replace the class before this
    # werkzeug ends a body without a Content-Length at the limit, so one more byte shows that it is too long.
    app.config["MAX_CONTENT_LENGTH"] = BODY_MAX_BYTES + 1
    middleware.install(app)
    problems.install(app, tokens.install(app))
    routes.install(app, PARTS)
    commands.register(app)
    return app


def create_served_app() -> Server:
    """Return the ASGI application for one of the API_WORKERS processes; the Procfile's server calls this factory.

    Raises:
        ConfigError: as `create_app`.
    """
    app, config = create_app(), settings()
    sockets.raise_file_limit(config.api_connections)
    if not config.trusted_proxies:
        connections.watch(config.port, config.api_connections // limits.CONNECTIONS_SHARE_OF_ADDRESS)
    endpoints = [endpoint for part in PARTS for endpoint in part.endpoints]
    return Server(
        app,
        threads=config.api_threads,
        trusted_proxies=config.trusted_proxies,
        body_seconds=config.request_body_seconds,
        uploads=UploadGate(app, endpoints),
    )


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    created = globals()["app"] = create_app()
    return created
