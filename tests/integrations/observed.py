"""The gateway's workers with OpenTelemetry and Sentry, set up as their documentation says.

`celery -A tests.integrations.observed worker` writes spans to the file SPANS, and Sentry's events to the file EVENTS.
"""

import json
import os
from pathlib import Path
from typing import Any

import sentry_sdk
from celery import signals
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from sentry_sdk.integrations.celery import CeleryIntegration

from tasks import app

__all__ = ["app"]


@signals.celeryd_init.connect
def _initialize_sentry(**_: Any) -> None:
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1",
        integrations=[CeleryIntegration()],
        auto_enabling_integrations=False,
        before_send=_write_event,
    )


def _write_event(event: Any, _hint: Any) -> None:
    with Path(os.environ["EVENTS"]).open("a") as file:
        file.write(json.dumps(event, default=str) + "\n")


@signals.worker_process_init.connect
def _initialize_tracing(**_: Any) -> None:
    file = Path(os.environ["SPANS"]).open("a")  # noqa: SIM115  # as long as the process
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=file, formatter=_line)))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
    PsycopgInstrumentor().instrument()
    RequestsInstrumentor().instrument()


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"
