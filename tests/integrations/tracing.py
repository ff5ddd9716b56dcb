"""Trace the processes of a test with OpenTelemetry.

A `sitecustomize` module installs the instrumentations, as `opentelemetry-instrument` does: the product is unmodified.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SITECUSTOMIZE = '''
"""Trace this process."""
import os
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

spans = open(os.environ["SPANS_FILE"], "a", buffering=1)
exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(indent=None) + "\\n")
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
for instrumentor in (CeleryInstrumentor(), FlaskInstrumentor(), PsycopgInstrumentor(), RequestsInstrumentor()):
    instrumentor.instrument()
'''


def traced_environment(folder: Path) -> dict[str, str]:
    """Return the variables of processes that are traced; `spans_of` reads their spans."""
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "SPANS_FILE": str(folder / "spans.jsonl")}


def spans_of(folder: Path) -> list[dict[str, Any]]:
    """Return the spans that the processes have written so far."""
    file = folder / "spans.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def named(spans: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the spans with this name."""
    return [span for span in spans if span["name"] == name]


def below(spans: list[dict[str, Any]], parent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all spans of the same trace whose parent is `parent`."""
    return [span for span in spans if span["parent_id"] == parent["context"]["span_id"]]
