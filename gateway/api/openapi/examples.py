"""Build examples for /openapi.json from the examples of the fields."""

from typing import Any

from gateway.api.openapi.glossary import EXAMPLES

ID = "0199f3a0-5c1e-7a55-9d64-2f2f7b1f5f10"
TIME = "2026-01-31T12:00:00.000000Z"
UNKNOWN = "string"
"""The example of a text without any; a test checks that there is no such text."""

_OF_FORMAT = {"uuid": ID, "date-time": TIME}
_OF_TYPE: dict[str, Any] = {"string": UNKNOWN, "integer": 1, "number": 1.0, "boolean": False, "null": None}


def example_of(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a value that `schema` allows: its example, its constant, its default, or a value of its type."""
    if "$ref" in schema:
        return example_of(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for keyword in ("examples", "enum"):
        if keyword in schema:
            return schema[keyword][0]
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if "anyOf" in schema:  # what may be null is null in a new object
        return None if {"type": "null"} in schema["anyOf"] else example_of(schema["anyOf"][0], definitions)
    if "oneOf" in schema:
        return example_of(schema["oneOf"][0], definitions)
    return _of_type(schema, definitions)


def _of_field(name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if name in EXAMPLES and not schema.keys() & {"examples", "enum", "const", "default"}:
        return EXAMPLES[name]
    return example_of(schema, definitions)


def _of_type(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return {name: _of_field(name, part, definitions) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example_of(schema["items"], definitions)] if "items" in schema else []
    if kind == "string" and "format" in schema:
        return _OF_FORMAT.get(schema["format"], UNKNOWN)
    return schema.get("minimum", _OF_TYPE.get(str(kind)))
