"""`flask alert-receiver`: a receiver of alerts for development.

It accepts the alerts that are sent to `ALERT_WEBHOOK_URL`, prints them, and lists the latest as a page and as JSON. It
has no authentication, keeps its list in memory, and is not for production.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, TypedDict

import click
from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from gateway.cli.support import CommandFailed

KEPT_MAX = 200
BODY_MAX_BYTES = 1_000_000
_COLORS = {"critical": "bright_red", "error": "red", "warning": "yellow", "info": "cyan"}


class Received(TypedDict):
    """An alert and the time at which it was received."""

    received_at: str
    alert: dict[str, Any]


def create_receiver(
    *, fail_with: int | None = None, file: Path | None = None, on_alert: Callable[[Received], None] = lambda _: None
) -> Flask:
    """Return the receiver as a WSGI application.

    Args:
        fail_with: status of the response to every POST; the alert is stored all the same.
        file: each alert is appended to this file as a line of JSON.
        on_alert: called with each alert.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = BODY_MAX_BYTES
    kept: deque[Received] = deque(maxlen=KEPT_MAX)
    writing = Lock()

    @app.post("/", defaults={"path": ""})
    @app.post("/<path:path>")
    def receive(path: str) -> Response:  # noqa: ARG001  # ALERT_WEBHOOK_URL may have any path
        body = request.get_json()
        if not isinstance(body, dict):
            return Response("expected a JSON object\n", 422, mimetype="text/plain")
        received = Received(received_at=datetime.now(UTC).isoformat(timespec="seconds"), alert=body)
        with writing:
            kept.appendleft(received)
            if file is not None:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(received) + "\n")
            on_alert(received)
        return Response(status=fail_with or 204)

    @app.get("/")
    def page() -> str:
        return render_template("alert_receiver.html", alerts=list(kept), kept_max=KEPT_MAX)

    @app.get("/alerts.json")
    def listed() -> Response:
        return jsonify(list(kept))

    @app.delete("/")
    def clear() -> Response:
        kept.clear()
        return Response(status=204)

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        return Response(f"{error.code} {error.name}\n", error.code, mimetype="text/plain")

    return app


def _printable(text: str) -> str:
    """Replace control characters, which a terminal would interpret."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_alert(received: Received) -> None:
    """Print an alert on the terminal."""
    alert = received["alert"]
    severity = str(alert.get("severity", "?"))
    click.secho(f"{severity.upper():<9}", fg=_COLORS.get(severity), bold=True, nl=False)
    click.echo(_printable(f"{alert.get('message')}  [{alert.get('service')}, {alert.get('timestamp')}]"))
    details = alert.get("details")
    for name, value in details.items() if isinstance(details, dict) else ():
        click.echo(_printable(f"          {name}: {json.dumps(value, ensure_ascii=False)}"))


@click.command("alert-receiver")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9000,
    show_default=True,
    help="Port to listen on; 0 chooses a free port.",
)
@click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), help="Append each alert to this file as a line of JSON."
)
@click.option("--fail-with", type=click.IntRange(300, 599), help="Respond with this HTTP status, to test failures.")
def command(*, host: str, port: int, file: Path | None, fail_with: int | None) -> None:
    """Receive, print and list alerts. For development.

    Start the gateway with ALERT_WEBHOOK_URL=http://127.0.0.1:9000 and open that address in a browser.
    GET /alerts.json lists the alerts as JSON, DELETE / removes them. Press Ctrl-C to stop.
    """
    app = create_receiver(fail_with=fail_with, file=file, on_alert=print_alert)
    try:
        server = make_server(host, port, app, threaded=True)
    except OSError as exc:
        raise CommandFailed(f"Cannot listen on {host}:{port}: {exc.strerror}") from exc
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # show the alerts, not the requests
    click.echo(f"Waiting for alerts: ALERT_WEBHOOK_URL=http://{host}:{server.server_port}")
    server.serve_forever()
