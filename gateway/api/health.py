"""Whether this process runs, and whether it can serve."""

import time
from functools import cache
from pathlib import Path
from typing import Literal

from alembic.script import ScriptDirectory
from loguru import logger
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from gateway import db
from gateway.api import broker, gauges
from gateway.api.http import Call, Reply, Routes
from gateway.api.models import AnswerModel
from gateway.api.probes import Probe, ProbeTimeout
from gateway.errors import DatabaseUnavailable, TransientError
from gateway.sessions import UnsuitableSession
from gateway.telemetry import metrics_text

READY_SECONDS = 1.9
"""Readiness is answered within this time, whatever hangs."""
MIGRATIONS = Path(__file__).parents[2] / "migrations"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

routes = Routes("Service")


class Live(AnswerModel):
    """The process answers."""

    status: Literal["live"]


class Ready(AnswerModel):
    """The process can serve. The broker is only reported: payments are accepted without it."""

    status: Literal["ready"]
    database: Literal["up"]
    schema_version: str
    broker: Literal["up", "down", "unknown"]


class NotReady(TransientError):
    """This process cannot serve at the moment."""

    code = "not_ready"
    remedy = "Operators: do what `detail` says, such as `alembic upgrade head`, or start the code that fits the schema."


@cache
def expected_version() -> str | None:
    """The schema version that this code was written for."""
    return ScriptDirectory(str(MIGRATIONS)).get_current_head()


@cache
def _older_versions() -> frozenset[str | None]:
    """The versions that lack something that this code needs: every known one but its own, and no schema at all.

    An unknown one is newer: in a rolling deploy the old processes serve on until they are replaced.
    """
    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    return frozenset({None, *known} - {expected_version()})


def _found_version() -> str | None:
    with db.autocommit() as connection:
        try:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
        except ProgrammingError:  # no such table: never migrated
            return None


_schema = Probe(_found_version)
_broker = Probe(broker.queues)


def _broker_state(deadline: float) -> Literal["up", "down", "unknown"]:
    if not broker.is_configured():
        return "unknown"
    try:
        return "down" if _broker.answer(max(0.0, deadline - time.monotonic())) is None else "up"
    except ProbeTimeout:
        return "down"


@routes.get("/health/live", public=True, answers={200: Live})
def live(call: Call) -> Reply:  # noqa: ARG001
    """Whether the process answers."""
    return Reply({"status": "live"})


@routes.get("/health/ready", public=True, answers={200: Ready}, errors=(NotReady, DatabaseUnavailable))
def ready(call: Call) -> Reply:  # noqa: ARG001
    """Whether the database is there with the schema that this version needs; the broker's state is reported."""
    deadline = time.monotonic() + READY_SECONDS
    try:
        found = _schema.answer(READY_SECONDS)
    except (ProbeTimeout, SQLAlchemyError) as exc:
        logger.warning("Not ready: the database does not answer: {}", db.reason(exc))
        unsuitable = getattr(exc, "orig", None)
        if isinstance(unsuitable, UnsuitableSession):
            raise NotReady(f"The database connection cannot be used: {unsuitable}") from None
        raise DatabaseUnavailable from None
    if found is None or found in _older_versions():
        raise NotReady(
            f"The database has schema version {found or 'none'}, this gateway needs {expected_version()}; "
            "run `alembic upgrade head`."
        )
    return Reply(
        {"status": "ready", "database": "up", "schema_version": found, "broker": _broker_state(deadline)},
        headers={"Cache-Control": "no-store"},
    )


@routes.get("/metrics", public=True, answers={200: None}, media_type=METRICS_TYPE)
def metrics(call: Call) -> Reply:  # noqa: ARG001
    """Metrics in Prometheus' text format."""
    return Reply(metrics_text(gauges.Momentary()))
