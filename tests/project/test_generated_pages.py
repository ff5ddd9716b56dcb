"""Check the pages that `make docs` generates from the code, and pages that list what the code has."""

import ast
import json
import re
from collections.abc import Iterator

import pytest

from devstack import docs
from devstack.bootstrap import ROOT
from gateway.api.http import field_codes
from gateway.api.http.validation import PYDANTIC_CODES
from gateway.app import PARTS
from gateway.errors import GatewayError
from gateway.providers.simulated import TEST_TOKENS

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", sorted(path.name for path in docs.pages()))
def test_a_generated_page_is_up_to_date(name: str) -> None:
    [(path, content)] = [(path, content) for path, content in docs.pages().items() if path.name == name]

    assert path.read_text() == content, f"{name} is out of date: run `make docs` and commit it"


def test_every_error_is_listed() -> None:
    page = docs.ERRORS.read_text()

    missing = [error.__name__ for error in docs.error_classes() if f"| `{error.code}` |" not in page]
    assert missing == []


def test_every_error_has_a_remedy() -> None:
    without = [error for error in docs.error_classes() if "code" in vars(error) and "remedy" not in vars(error)]

    assert without == [], "give each a `remedy`: one sentence on what its receiver can do"


def test_a_code_has_one_status() -> None:
    statuses: dict[str, set[int]] = {}
    for error in docs.error_classes():
        statuses.setdefault(error.code, set()).add(error.status)

    assert {code: found for code, found in statuses.items() if len(found) > 1} == {}


def field_codes_in_use() -> Iterator[tuple[str, str]]:
    """Yield each code that the source gives to an error of a field, with the module's name."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            if node.func.id == "PydanticCustomError":
                given = node.args[:1]
            if node.func.id in {"PydanticCustomError", "FieldError"}:
                yield from (
                    (path.name, code.value)
                    for code in given
                    if isinstance(code, ast.Constant) and isinstance(code.value, str)
                )


def test_every_code_of_a_field_has_a_remedy() -> None:
    used = set(field_codes_in_use())
    assert ("parameters.py", "invalid_time") in used  # the search works

    unlisted = {(file, code) for file, code in used if code not in field_codes.REMEDIES}
    assert unlisted == set(), "add them to gateway/api/http/field_codes.py"
    assert set(PYDANTIC_CODES.values()) <= set(field_codes.REMEDIES)


def test_the_remedy_of_an_unexpected_error_is_to_repeat_the_request_with_its_key() -> None:
    assert "Idempotency-Key" in GatewayError.remedy


def test_the_postman_collection_has_every_call_of_the_document() -> None:
    folders = json.loads(docs.POSTMAN.read_text())["item"]
    calls = [item["request"] for folder in folders for item in folder["item"]]
    found = {(call["method"], re.sub(r"{{\w+}}", "ID", "/".join(call["url"]["path"]))) for call in calls}

    for endpoint in (endpoint for part in PARTS for endpoint in part.endpoints if endpoint.documented):
        assert (endpoint.method, re.sub(r"<\w+>", "ID", endpoint.path.strip("/"))) in found


def test_the_page_about_testing_lists_every_test_token() -> None:
    listed = set(re.findall(r"`(tok_\w+)`", (ROOT / "docs" / "testing.md").read_text()))

    assert listed == TEST_TOKENS


def test_the_page_about_idempotency_lists_every_call_that_takes_a_key() -> None:
    page = (ROOT / "docs" / "idempotency.md").read_text()
    listed = set(re.findall(r"^- `(\w+) (\S+)`$", page, re.MULTILINE))

    calls = [endpoint for part in PARTS for endpoint in part.endpoints if endpoint.idempotent]
    assert listed == {(call.method, re.sub(r"<(\w+)>", r"{\1}", call.path)) for call in calls}
