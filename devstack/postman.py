"""docs/postman_collection.json, made from /openapi.json: two journeys, then every other call.

The document gives method, path, body, description and statuses; `journeys` gives the order, and what one call hands on
to the next. The format: https://schema.postman.com/collection/json/v2.1.0/draft-07/docs/
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from devstack.postman_calls import MERCHANT, OPERATOR, Step
from gateway import __version__, app
from gateway.api.http.request_content import FORM, JSON
from gateway.api.openapi.document import document
from gateway.api.openapi.examples import ID

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
POLLS_MAX = 150
POLL_MILLISECONDS = 200
VARIABLES = {"base_url": "http://127.0.0.1:15870", "operator_email": "", "operator_password": "", "unknown_id": ID}
DESCRIPTION = """Made by `make docs` from /openapi.json. Run it from top to bottom, or call by call.

Set `base_url`. The operator's calls need `operator_email` and `operator_password`: `make run` prints both. Without them
they are skipped."""
_NEW_RUN = """pm.collectionVariables.set("email", `shop-${pm.variables.replaceIn("{{$guid}}")}@example.com`);"""


def collection() -> dict[str, Any]:
    """The Postman collection (v2.1.0)."""
    described = document([endpoint for part in app.PARTS for endpoint in part.endpoints])
    operations = {
        operation["operationId"]: (method, path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    taken = {step.operation for step in (*MERCHANT, *OPERATOR)}
    rest = [Step(name) for name in operations if name not in taken]
    logout = [step for step in MERCHANT if step.operation == "logout"]
    folders = {
        "A merchant's journey": [step for step in MERCHANT if step not in logout],
        "An operator's journey": OPERATOR,
        "Every other call": rest,
        "The end": logout,
    }
    return {
        "info": {
            "name": "Payment gateway",
            "version": __version__,
            "description": DESCRIPTION,
            "schema": SCHEMA,
        },
        "auth": _bearer("access_token"),
        "variable": [{"key": key, "value": value} for key, value in VARIABLES.items()],
        "item": [
            {"name": name, "item": [_request(step, *operations[step.operation]) for step in steps]}
            for name, steps in folders.items()
        ],
    }


def _request(step: Step, method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    address = path.replace("{id}", f"{{{{{step.target}}}}}")
    headers = [{"key": "Accept", "value": "*/*"}]
    if any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"]):
        headers.append({"key": "Idempotency-Key", "value": "{{idempotency_key}}"})
    request: dict[str, Any] = {
        "method": method.upper(),
        "url": _url(address, step.query),
        "header": headers,
        "description": operation.get("description", operation["summary"]),
    }
    request |= _body(step, operation)
    if not operation["security"]:
        request["auth"] = {"type": "noauth"}
    elif "operations:" in str(operation["security"]):
        request["auth"] = _bearer("operator_token")
    events = [_event("prerequest", _before(step)), _event("test", _after(step, operation))]
    return {"name": step.name or operation["summary"], "event": events, "request": request}


def _url(address: str, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    raw = "{{base_url}}" + address + ("?" + "&".join("=".join(pair) for pair in query) if query else "")
    url: dict[str, Any] = {"raw": raw, "host": ["{{base_url}}"], "path": address.strip("/").split("/")}
    if query:
        url["query"] = [{"key": key, "value": value} for key, value in query]
    return url


def _body(step: Step, operation: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    if FORM in content:
        return {"body": {"mode": "urlencoded", "urlencoded": [{"key": k, "value": v} for k, v in step.form]}}
    if JSON in content:
        raw = step.body if step.body is not None else content[JSON]["example"]
        return {"body": {"mode": "raw", "raw": json.dumps(raw, indent=2), "options": {"raw": {"language": "json"}}}}
    for media_type in content:
        options = {"raw": {"language": "text", "contentType": media_type}}
        return {"body": {"mode": "raw", "raw": "", "options": options}}
    return {}


def _before(step: Step) -> list[str]:
    lines = [_NEW_RUN] if step.operation == "register" else []
    if step.by_operator:
        lines.append('if (!pm.variables.get("operator_email")) { pm.execution.skipRequest(); }')
    if not step.repeats:
        lines.append('pm.collectionVariables.set("idempotency_key", pm.variables.replaceIn("{{$guid}}"));')
    return lines


def _after(step: Step, operation: dict[str, Any]) -> list[str]:
    documented = sorted(int(status) for status in operation["responses"])
    good = list(step.statuses) or [status for status in documented if status < 300]
    if not step.planned:
        good = [status for status in documented if status < 500]
    lines = []
    if step.until:
        lines += [
            f"const done = pm.response.code === {good[0]} && ({step.until});",
            'const polls = Number(pm.collectionVariables.get("polls") || 0);',
            f'pm.collectionVariables.set("polls", done || polls >= {POLLS_MAX} ? 0 : polls + 1);',
            f"if (!done && polls < {POLLS_MAX}) {{",
            "    pm.execution.setNextRequest(pm.info.requestId);",
            f"    setTimeout(() => {{}}, {POLL_MILLISECONDS});",
            "    return;",
            "}",
            f"pm.test({json.dumps(step.until)}, () => pm.expect(done).to.be.true);",
        ]
    lines.append(
        f'pm.test("status {" or ".join(map(str, good))}", () => pm.expect(pm.response.code).to.be.oneOf({good}));'
    )
    lines += [f"pm.test({json.dumps(check)}, () => pm.expect({check}).to.be.true);" for check in step.checks]
    lines += [f"pm.collectionVariables.set({json.dumps(name)}, {what});" for name, what in step.captures]
    return lines


def _event(kind: str, lines: Iterable[str]) -> dict[str, Any]:
    return {"listen": kind, "script": {"type": "text/javascript", "exec": list(lines)}}


def _bearer(variable: str) -> dict[str, Any]:
    return {"type": "bearer", "bearer": [{"key": "token", "value": f"{{{{{variable}}}}}", "type": "string"}]}
