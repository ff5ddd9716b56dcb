"""``make docs``: the pages under docs/ that are made from the code, so that they say what it does."""

import importlib
import json
import pkgutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import gateway
from devstack import postman
from devstack.bootstrap import ROOT
from devstack.terminal import info
from gateway import app
from gateway.api.http import field_codes
from gateway.api.http.problems import OAuthError
from gateway.api.openapi import errors as openapi_errors
from gateway.errors import GatewayError, MethodNotAllowed, NotFound, PermanentError

ERRORS = ROOT / "docs" / "errors.md"
POSTMAN = ROOT / "docs" / "postman_collection.json"

_OF_EVERY_PATH: tuple[type[GatewayError], ...] = (NotFound, MethodNotAllowed, PermanentError)
"""Errors that belong to no call: the path, the method or the HTTP itself is wrong."""
_ERRORS_PAGE = """<!-- Made by `make docs` from gateway/errors.py and its relatives. Do not edit. -->
# Errors

Every error is `application/problem+json` (RFC 9457). Programs go by `code`, which is stable; `title` and `detail` are
for people. `request_id` finds the request in the logs.

```json
{{"type": "urn:payment-gateway:problem:validation_failed", "title": "…", "status": 422, "detail": "…",
 "code": "validation_failed", "request_id": "…",
 "errors": [{{"pointer": "/amount", "code": "out_of_range", "detail": "…"}}]}}
```

{answered}

## In `errors` of a 422

`pointer` is a JSON pointer into the body, or `/` and a parameter's name.

{fields}

## Of the token endpoint

`POST /oauth/token` answers in RFC 6749's shape, `{{"error": "…", "error_description": "…"}}`.

{oauth}

## In logs and dead letters

These never reach a caller.

{inside}
"""


def error_classes() -> list[type[GatewayError]]:
    """Every error that the code defines."""
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return [error for error in _with_children(GatewayError) if error.__module__.startswith("gateway.")]


def _with_children(error: type[GatewayError]) -> list[type[GatewayError]]:
    return [error, *(found for child in error.__subclasses__() for found in _with_children(child))]


def answered() -> set[str]:
    """The codes that calls of the API answer with."""
    endpoints = [endpoint for part in app.PARTS for endpoint in part.endpoints]
    declared = [error for endpoint in endpoints for error in openapi_errors.errors_of(endpoint)]
    return {error.code for error in (*declared, *_OF_EVERY_PATH)}


def errors_page() -> str:
    """docs/errors.md."""
    of_code: dict[str, list[type[GatewayError]]] = defaultdict(list)
    for error in error_classes():
        of_code[error.code].append(error)
    outside = answered()
    oauth = {code for code in of_code if issubclass(of_code[code][0], OAuthError)}
    http = sorted(outside - oauth, key=lambda code: (of_code[code][0].status, code))
    inside = sorted(set(of_code) - outside - oauth)
    return _ERRORS_PAGE.format(
        answered=_table(("Status", "`code`", "Means", "Do"), (_row(of_code[code], status=True) for code in http)),
        fields=_table(("`code`", "Do"), ((f"`{code}`", text) for code, text in field_codes.REMEDIES.items())),
        oauth=_table(
            ("Status", "`error`", "Means", "Do"), (_row(of_code[code], status=True) for code in sorted(oauth))
        ),
        inside=_table(("Code", "Means", "Do"), (_row(of_code[code], status=False) for code in inside)),
    )


def _row(errors: list[type[GatewayError]], *, status: bool) -> tuple[str, ...]:
    first = errors[-1]
    specific = [error for error in errors if not any(other in errors for other in error.__subclasses__())]
    titles = "; ".join(error.title() for error in specific)
    return (*([str(first.status)] if status else []), f"`{first.code}`", titles, first.remedy)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pages() -> dict[Path, str]:
    """Each page that is made from the code, with what it should hold."""
    return {ERRORS: errors_page(), POSTMAN: json.dumps(postman.collection(), indent=2) + "\n"}


def write() -> None:
    """Write the pages anew."""
    for path, content in pages().items():
        path.write_text(content)
        info(f"wrote {path.relative_to(ROOT)}")
