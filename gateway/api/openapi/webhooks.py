"""Describe the requests that the gateway sends to webhook endpoints, for /openapi.json."""

from typing import Any

from pydantic import BaseModel

from gateway.api.http.request_content import JSON
from gateway.api.openapi.examples import ID, TIME, example_of
from gateway.api.openapi.glossary import EXAMPLES
from gateway.api.resources.refunds import Refund
from gateway.api.resources.settlements import Settlement
from gateway.api.resources.transactions import Transaction
from gateway.states import EventType

_OBJECTS: dict[str, type[BaseModel]] = {"transaction": Transaction, "refund": Refund, "settlement": Settlement}
"""The model of the `data` of an event, by the first part of its type."""

_SIGNATURE = """`v1,` and the base64 HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}` with the
endpoint's secret. For 24 hours after a rotation of the secret there are two signatures, separated by a space. Verify a
signature before you trust the body."""
_HEADERS = {
    "webhook-id": ("The id of the event, the same for every attempt. Process each id once.", ID),
    "webhook-timestamp": (
        "The time of this attempt, in seconds since 1970. Reject an old one: it may be a replay.",
        1769860800,
    ),
    "webhook-signature": (_SIGNATURE, "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
}
_EXHAUSTED = {
    "code": "provider_error",
    "message": "The provider could not process the payment.",
    "category": "provider_error",
    "retryable": True,
}
"""The failure of a dead-lettered object."""
_RESPONSES = {
    "2XX": "Accepted, if the response arrives within 15 s: the event is not sent to this endpoint again.",
    "410": "Disables the endpoint, and cancels its pending deliveries.",
    "default": "Retried after 5 s, 5 min, 30 min, and then 2, 5, 10, 14, 20 and 24 h. Redirects are not followed.",
}


def models() -> list[type[BaseModel]]:
    """Return the models of the objects in events."""
    return list(_OBJECTS.values())


def webhooks(schemas: dict[str, Any], schema_prefix: str) -> dict[str, Any]:
    """Return a path item for each type of event; the examples are built from `schemas`."""
    return {str(kind): {"post": _operation(kind, schemas, schema_prefix)} for kind in EventType}


def _operation(kind: EventType, schemas: dict[str, Any], schema_prefix: str) -> dict[str, Any]:
    subject, _, happened = kind.partition(".")
    data = {"$ref": schema_prefix + _OBJECTS[subject].__name__}
    schema = {
        "type": "object",
        "properties": {
            "type": {"const": str(kind)},
            "timestamp": {"type": "string", "format": "date-time", "description": "When the object changed"},
            "data": data,
        },
        "required": ["type", "timestamp", "data"],
    }
    example = {
        "type": str(kind),
        "timestamp": TIME,
        "data": _after_change(example_of(data, schemas), happened, schemas),
    }
    return {
        "operationId": f"webhook_{kind}".replace(".", "_"),
        "tags": ["Webhooks"],
        "summary": f"A {subject} is {happened.replace('_', ' ')}",
        "parameters": [_header(name, *described) for name, described in _HEADERS.items()],
        "requestBody": {"required": True, "content": {JSON: {"schema": schema, "example": example}}},
        "responses": {status: {"description": text} for status, text in _RESPONSES.items()},
        "security": [],
    }


def _after_change(example: dict[str, Any], happened: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the example of an object that is now in the status `happened`."""
    if "failure" not in example:  # a settlement, which has only one status
        return example
    failure = example_of(schemas["PaymentFailure"], schemas)
    failures = {"failed": failure, "dead_lettered": {**failure, **_EXHAUSTED}}
    completed = happened == "completed"
    attempts = {"canceled": 0, "dead_lettered": 4}
    return {
        **example,
        "status": happened,
        "provider": None if happened == "canceled" else EXAMPLES["provider"],
        "provider_reference": EXAMPLES["provider_reference"] if completed else None,
        "attempts": attempts.get(happened, 1),
        "failure": failures.get(happened),
        "completed_at": TIME if completed else None,
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
