"""Examples for /openapi.json, put together from those of the fields: one for every model, and all of a kind."""

from typing import Any

ID = "0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"
TIME = "2026-01-31T12:00:00.000000Z"
UNKNOWN = "string"
"""What stands for a text that says nothing about itself; a test sees to it that every text does."""

OF_NAME = {
    "access_token": "eyJhbGciOiJSUzI1NiIsImtpZCI6IjAwMDEifQ.eyJzdWIiOiIwMTk5In0.c2lnbmF0dXJl",
    "business_name": "Ada's Bookshop",
    "client_id": "cl_5a1f0c9e7b3d2a8846e0f1b2",
    "client_secret": "cs_Yk3w0nJ2r6m1q9xVt5uLz8sHd4bGf7aEcPoRiNwXyK0",
    "currency": "USD",
    "customer_id": "cus_77",
    "description": "Two seats",
    "e": "AQAB",
    "email": "ada@example.com",
    "kid": "0001",
    "n": "w7Zdfmece8iaB0kiTY8pCtiBtzbptJmP28nSWwtdjRu0f2GFpajvWE4VhfJAjEsOcwYzay7XGN0b",
    "next_cursor": "dHJhbnNhY3Rpb246AZnzoFweelWdZC8ve18fEA",
    "note": "The customer paid in the shop.",
    "payment_method": "tok_approve",
    "provider": "simulated",
    "provider_reference": "sim_0199f3a05c1e",
    "queue": "settlement.requested",
    "reason": "rejected",
    "reference": "order-1001",
    "schema_version": "0002",
    "scope": "transactions:read transactions:write",
    "task": "transactions.settle",
}
"""What a text of this name looks like, in every model whose field does not say it itself."""

_OF_FORMAT = {"uuid": ID, "date-time": TIME}
_OF_TYPE: dict[str, Any] = {"string": UNKNOWN, "integer": 1, "number": 1.0, "boolean": False, "null": None}


def example_of(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that `schema` allows: the example it gives, else its constant, its default, or one for its type."""
    if "$ref" in schema:
        return example_of(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for keyword in ("examples", "enum"):
        if keyword in schema:
            return schema[keyword][0]
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], definitions)
    return _of_type(schema, definitions)


def _of_type(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return {
            name: OF_NAME[name] if found == UNKNOWN and name in OF_NAME else found
            for name, part in schema.get("properties", {}).items()
            for found in [example_of(part, definitions)]
        }
    if kind == "array":
        return [example_of(schema["items"], definitions)] if "items" in schema else []
    if kind == "string" and "format" in schema:
        return _OF_FORMAT.get(schema["format"], UNKNOWN)
    return schema.get("minimum", _OF_TYPE.get(str(kind)))
