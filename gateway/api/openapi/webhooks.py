"""The requests that the gateway sends to merchants, as /openapi.json tells about them."""

from typing import Any

from pydantic import BaseModel

from gateway.api.http.request_content import JSON
from gateway.api.openapi.examples import ID, TIME, example_of
from gateway.api.resources.refunds import Refund
from gateway.api.resources.settlements import Settlement
from gateway.api.resources.transactions import Transaction
from gateway.states import EventType

_OBJECTS: dict[str, type[BaseModel]] = {"transaction": Transaction, "refund": Refund, "settlement": Settlement}
"""What the `data` of an event is, by the first part of its type."""

_SIGNATURE = """`v1,` and the base64 HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}` with the
endpoint's secret; several of them, separated by spaces, while the secret is being rotated. Verify it before you trust
the body."""
_HEADERS = {
    "webhook-id": ("The event's id: the same with every attempt. Handle each id once.", ID),
    "webhook-timestamp": ("When this attempt was made, in seconds since 1970. Refuse one of long ago.", 1769860800),
    "webhook-signature": (_SIGNATURE, "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
}
_ANSWERS = {
    "2XX": "Taken, if it comes within 15 s: the event is not sent to this endpoint again.",
    "410": "Disables the endpoint.",
    "default": "Tried again after 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h. Redirects are not followed.",
}


def models() -> list[type[BaseModel]]:
    """The models that events carry."""
    return list(_OBJECTS.values())


def webhooks(schemas: dict[str, Any], schema_prefix: str) -> dict[str, Any]:
    """One path item for each type of event; `schemas` are the document's, for the examples."""
    return {str(kind): {"post": _operation(kind, schemas, schema_prefix)} for kind in EventType}


def _operation(kind: EventType, schemas: dict[str, Any], schema_prefix: str) -> dict[str, Any]:
    subject, _, happened = kind.partition(".")
    data = {"$ref": schema_prefix + _OBJECTS[subject].__name__}
    schema = {
        "type": "object",
        "properties": {
            "type": {"const": str(kind)},
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened"},
            "data": data,
        },
        "required": ["type", "timestamp", "data"],
    }
    example = {
        "type": str(kind),
        "timestamp": TIME,
        "data": _as_it_is_then(example_of(data, schemas), happened, schemas),
    }
    return {
        "operationId": f"webhook_{kind}".replace(".", "_"),
        "tags": ["Webhooks"],
        "summary": f"A {subject} is {happened.replace('_', ' ')}",
        "parameters": [_header(name, *described) for name, described in _HEADERS.items()],
        "requestBody": {"required": True, "content": {JSON: {"schema": schema, "example": example}}},
        "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
        "security": [],
    }


def _as_it_is_then(example: dict[str, Any], happened: str, schemas: dict[str, Any]) -> dict[str, Any]:
    if "failure" not in example:  # a settlement, which has one status only
        return example
    failure = example_of(schemas["Failure"], schemas) if happened == "failed" else None
    if happened != "canceled":
        example = {**example, "provider": "simulated", "provider_reference": "sim_0199f3a05c1e", "attempts": 1}
    return {
        **example,
        "status": happened,
        "failure": failure,
        "completed_at": TIME if happened == "completed" else None,
    }


def _header(name: str, description: str, example: object) -> dict[str, Any]:
    kind = "integer" if isinstance(example, int) else "string"
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": {"type": kind},
        "example": example,
    }
