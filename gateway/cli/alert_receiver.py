"""A small receiver of alerts for development: `flask alert-receiver`.

It takes what `ALERT_WEBHOOK_URL` is sent, prints it, and lists the latest alerts as a page and as JSON. It knows no
users, keeps its list in memory only, and is not for production.
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

KEPT_MAX = 200
BODY_MAX_BYTES = 1_000_000
_COLORS = {"critical": "bright_red", "error": "red", "warning": "yellow", "info": "cyan"}


class Received(TypedDict):
    """One body that was POSTed, and when."""

    received_at: str
    alert: dict[str, Any]


def create_receiver(
    *, fail_with: int | None = None, file: Path | None = None, tell: Callable[[Received], None] = lambda _: None
) -> Flask:
    """The receiver as a WSGI application.

    Args:
        fail_with: answer every POST with this HTTP status, after having taken the alert.
        file: append each alert to this file as a line of JSON.
        tell: called with each alert.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = BODY_MAX_BYTES
    kept: deque[Received] = deque(maxlen=KEPT_MAX)
    writing = Lock()

    @app.post("/", defaults={"path": ""})
    @app.post("/<path:path>")
    def take(path: str) -> Response:  # noqa: ARG001  # ALERT_WEBHOOK_URL may have any path
        body = request.get_json()
        if not isinstance(body, dict):
            return Response("expected a JSON object\n", 422, mimetype="text/plain")
        received = Received(received_at=datetime.now(UTC).isoformat(timespec="seconds"), alert=body)
        with writing:
            kept.appendleft(received)
            if file is not None:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(received) + "\n")
            tell(received)
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
    """`text` without what a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_alert(received: Received) -> None:
    """Show an alert on the terminal."""
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
    "--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Append each alert to it as a JSON line.")
@click.option("--fail-with", type=click.IntRange(300, 599), help="Answer with this HTTP status, to see what happens.")
def command(*, host: str, port: int, file: Path | None, fail_with: int | None) -> None:
    """Receive alerts on this machine, print and list them; for development.

    Start the gateway with ALERT_WEBHOOK_URL=http://127.0.0.1:9000 and open that address in a browser.
    GET /alerts.json lists the alerts as JSON, DELETE / forgets them. Ctrl-C ends it.
    """
    app = create_receiver(fail_with=fail_with, file=file, tell=print_alert)
    try:
        server = make_server(host, port, app, threaded=True)
    except OSError as exc:
        raise click.ClickException(f"Cannot listen on {host}:{port}: {exc.strerror}") from exc
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # alerts are to be seen here, not requests
    click.echo(f"Waiting for alerts: ALERT_WEBHOOK_URL=http://{host}:{server.server_port}")
    server.serve_forever()
