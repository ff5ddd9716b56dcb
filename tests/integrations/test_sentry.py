"""Sentry's Flask integration on the unmodified application."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

_PROGRAM = """
import json
import sentry_sdk
from sentry_sdk.integrations.flask import FlaskIntegration

events = []
sentry_sdk.init(
    dsn="http://key@127.0.0.1:1/1",
    integrations=[FlaskIntegration()],
    before_send=lambda event, hint: events.append(event),  # None: nothing is sent
)

from gateway.app import create_app

app = create_app()

def failing():
    raise ZeroDivisionError("in a route")

app.view_functions["live"] = failing
responses = [app.test_client().get(path).status_code for path in ("/health/live", "/nothing", "/v1/transactions")]
print(json.dumps({"responses": responses, "events": [
    {"transaction": event["transaction"], "exceptions": [found["type"] for found in event["exception"]["values"]]}
    for event in events if "exception" in event
]}))
"""


def test_an_unexpected_exception_of_a_route_is_reported_and_expected_errors_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], check=True, env=os.environ, capture_output=True, text=True, timeout=60
    )
    found = json.loads(done.stdout)

    assert found["responses"] == [500, 404, 401]
    assert found["events"], "by the Flask integration, and perhaps once more as a log line"
    assert all(event == {"transaction": "live", "exceptions": ["ZeroDivisionError"]} for event in found["events"])
