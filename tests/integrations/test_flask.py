"""Flask's own hooks, signals and extensions on the unmodified application."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, got_request_exception, jsonify, request_finished, request_started
from flask_jwt_extended import current_user, get_jwt, jwt_required

from gateway.app import create_app
from tests.api.conftest import Caller, expect_problem, register


class Recorder:
    """A Flask extension that uses every kind of hook."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def init_app(self, app: Flask) -> None:
        app.before_request(lambda: self.calls.append("before_request"))
        app.after_request(self._after)
        app.teardown_request(lambda _error: self.calls.append("teardown_request"))
        app.teardown_appcontext(lambda _error: self.calls.append("teardown_appcontext"))
        app.url_value_preprocessor(lambda endpoint, _values: self.calls.append(f"url_value_preprocessor {endpoint}"))

    def _after(self, response: Response) -> Response:
        self.calls.append("after_request")
        return response


@contextmanager
def signals(app: Flask) -> Iterator[list[str]]:
    """Record Flask's signals within the block."""
    sent: list[str] = []
    receivers = {
        signal: lambda _sender, *, name=name, **_values: sent.append(name)
        for name, signal in {
            "request_started": request_started,
            "request_finished": request_finished,
            "got_request_exception": got_request_exception,
        }.items()
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver, app)
    try:
        yield sent
    finally:
        for signal, receiver in receivers.items():
            signal.disconnect(receiver, app)


@pytest.fixture(scope="module")
def app() -> Flask:
    """Return an application with additional routes of another program."""
    app = create_app()
    others = Blueprint("others", __name__)

    @others.get("/others/failing")
    def failing() -> str:
        raise ZeroDivisionError("a secret detail")

    @others.get("/others/me")
    @jwt_required()  # type: ignore[untyped-decorator]
    def me() -> Response:
        return jsonify(subject=current_user.subject, scopes=get_jwt()["scope"])

    app.register_blueprint(others)
    return app


def test_hooks_of_an_extension_run_for_every_request(app: Flask) -> None:
    recorder = Recorder()
    recorder.init_app(app)

    assert app.test_client().get("/health/live").status_code == 200

    assert recorder.calls == [
        "url_value_preprocessor live",
        "before_request",
        "after_request",
        "teardown_request",
        "teardown_appcontext",
    ]


def test_a_hook_can_respond_instead_of_a_route() -> None:
    app = create_app()
    app.before_request(lambda: ("in maintenance", 503))

    response = app.test_client().get("/health/live")

    assert (response.status_code, response.text) == (503, "in maintenance")
    assert response.headers["X-Request-Id"]


def test_signals_are_sent(app: Flask) -> None:
    with signals(app) as sent:
        app.test_client().get("/health/live")
    assert sent == ["request_started", "request_finished"]


def test_an_unexpected_exception_is_signaled_and_its_response_has_no_details(app: Flask) -> None:
    with signals(app) as sent:
        response = Caller(app).get("/others/failing")

    assert sent == ["request_started", "got_request_exception", "request_finished"]
    expect_problem(response, 500, "internal_error")
    assert "secret" not in response.text


def test_an_expected_error_is_not_reported_to_error_trackers(app: Flask) -> None:
    with signals(app) as sent:
        response = Caller(app).get("/v1/transactions")

    expect_problem(response, 401, "authentication_required")
    assert "got_request_exception" not in sent


def test_a_view_with_jwt_required_gets_the_caller(app: Flask, database: None) -> None:  # noqa: ARG001
    merchant = register(app)

    me: dict[str, Any] = merchant.get("/others/me").json

    assert me["subject"] == merchant.facts["user"]["id"]
    assert "transactions:write" in me["scopes"]


def test_a_view_with_jwt_required_rejects_the_same_tokens_as_the_api(app: Flask, database: None) -> None:  # noqa: ARG001
    merchant = register(app)
    assert merchant.post("/auth/logout").status_code == 204

    expect_problem(merchant.get("/others/me"), 401, "invalid_token")
    expect_problem(Caller(app, "no.valid.token").get("/others/me"), 401, "invalid_token")
    expect_problem(Caller(app).get("/others/me"), 401, "authentication_required")
