"""Health checks and metrics of an API process."""

import time
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from alembic.script import ScriptDirectory
from loguru import logger
from pydantic import Field
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from gateway import db
from gateway.api.http.routes import ApiResponse, Routes
from gateway.api.http.schemas import ResponseModel
from gateway.api.service import gauges
from gateway.api.service.probes import Probe, ProbeTimeout
from gateway.clock import database_clock, describe
from gateway.config import settings
from gateway.database_sessions import UnsuitableSession
from gateway.domain.operations import queue_states
from gateway.domain.operations.queue_states import BrokerState, State
from gateway.errors import DatabaseUnavailable, TransientError
from gateway.reasons import reason_of
from gateway.telemetry import metrics_text

READY_SECONDS = 1.9
"""Maximum time of a readiness check, even if the database hangs."""
MIGRATIONS = Path(__file__).parents[3] / "migrations"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

routes = Routes("Service")


class Live(ResponseModel):
    """The process is alive."""

    status: Literal["live"]


class Ready(ResponseModel):
    """The process can serve requests. The state of the broker is only reported: payments are accepted without it."""

    status: Literal["ready"]
    database: Literal["up"]
    schema_version: str
    clock_offset_seconds: Annotated[
        float, Field(description="This host's clock minus the database's", examples=[0.002])
    ]
    broker: Literal[tuple(str(state) for state in BrokerState)]  # type: ignore[valid-type]  # the enum's values
    broker_reason: Annotated[str | None, Field(description="The affected queue and its problem", examples=[None])]


class NotReady(TransientError):
    """This process cannot serve requests at the moment."""

    code = "not_ready"
    remedy = "Operators: follow `detail`: run `alembic upgrade head`, for example, or set the clock of the host."


@cache
def expected_version() -> str | None:
    """Return the schema version of this code."""
    return ScriptDirectory(str(MIGRATIONS)).get_current_head()


@cache
def _older_versions() -> frozenset[str | None]:
    """Return the versions that are too old for this code: every known one but its own, and None for no schema.

    An unknown version is newer: during a rolling deployment, old processes serve until they are replaced.
    """
    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    return frozenset({None, *known} - {expected_version()})


def _current_version() -> str | None:
    with db.autocommit() as connection:
        try:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
        except ProgrammingError:  # no such table: never migrated
            return None


def _read_queue_states() -> list[State]:
    with db.autocommit() as connection:
        return queue_states.states(connection)


_schema = Probe(_current_version)
_queues = Probe(_read_queue_states)


def _broker_state(deadline: float) -> tuple[BrokerState, str | None]:
    """Return the state of the broker as the relay and the workers observe it, and the problem, if any."""
    try:
        return queue_states.summary(_queues.result(max(0.0, deadline - time.monotonic())))
    except (ProbeTimeout, SQLAlchemyError) as exc:
        return BrokerState.UNKNOWN, f"The state of the queues cannot be read: {type(exc).__name__}."


def _checked_offset() -> float:
    """Return the offset of this host's clock.

    Raises:
        NotReady: it is too large: this host would rotate the signing keys at a different time than the others.
    """
    offset = database_clock.offset_seconds() or 0.0
    limit = settings().clock_offset_max_seconds
    if abs(offset) > limit:
        raise NotReady(f"{describe(offset)} The maximum is {limit} s.")
    return offset


@routes.get("/health/live", public=True, responses={200: Live})
def live() -> ApiResponse:
    """Check whether the process is alive."""
    return ApiResponse({"status": "live"})


@routes.get("/health/ready", public=True, responses={200: Ready}, errors=(NotReady, DatabaseUnavailable))
def ready() -> ApiResponse:
    """Check whether the process can serve requests.

    The database must be available and have the schema of this version, and the clock of the host must be right. The
    state of the broker is only reported: payments are accepted without it.
    """
    deadline = time.monotonic() + READY_SECONDS
    try:
        found = _schema.result(READY_SECONDS)
    except (ProbeTimeout, SQLAlchemyError) as exc:
        logger.warning("Not ready: the database is unavailable: {}", reason_of(exc))
        unsuitable = getattr(exc, "orig", None)
        if isinstance(unsuitable, UnsuitableSession):
            raise NotReady(f"The database connection cannot be used: {unsuitable}") from None
        raise DatabaseUnavailable from None
    if found is None or found in _older_versions():
        raise NotReady(
            f"The database has schema version {found or 'none'}, and this gateway needs {expected_version()}; "
            "run `alembic upgrade head`."
        )
    offset = _checked_offset()
    broker, broker_reason = _broker_state(deadline)
    return ApiResponse(
        {
            "status": "ready",
            "database": "up",
            "schema_version": found,
            "clock_offset_seconds": round(offset, 3),
            "broker": broker.value,
            "broker_reason": broker_reason,
        },
        headers={"Cache-Control": "no-store"},
    )


@routes.get("/metrics", public=True, responses={200: None}, media_type=METRICS_TYPE)
def metrics() -> ApiResponse:
    """Return the metrics in the text format of Prometheus."""
    return ApiResponse(metrics_text(gauges.StateCollector()))
