"""Upper bounds of CPU time and memory per byte of a request, for generated worst cases of each parser."""

import io
import json
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from flask import Flask

from gateway.api.http.bounded_json import DEPTH_MAX, MEMBERS_MAX, VALUES_MAX
from gateway.api.http.request_content import BODY_MAX_BYTES
from gateway.api.http.routes import Endpoint
from gateway.api.http.validation import ERRORS_MAX, PARAMETERS_MAX, RequestModel, parse_json
from gateway.api.resources.statements import STATEMENT_MAX_BYTES
from gateway.app import PARTS
from gateway.config import settings
from gateway.domain.reconciliation import statement_files
from gateway.domain.reconciliation.statement_files import LINE_MAX_LENGTH
from gateway.errors import CardNumberRejected, FieldError, GatewayError, MalformedJson, ValidationFailed
from gateway.security.card_numbers import contains_card_number, mask_card_numbers
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.hostile_input import (
    CSV,
    CSV_HEADER,
    HEADER_BYTES,
    HEADERS,
    QUERIES,
    TEXTS,
    WIDE,
    bodies,
    encoded,
    repeated,
    token,
)
from tests.helpers.parsing_costs import expect_bounded, memory_bytes

CSV_BYTES = 256 * 1024


@pytest.fixture
def _without_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Disable the limit of requests from one address."""
    monkeypatch.setenv("AUTH_RATE_LIMIT_PER_SECOND", "0")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def endpoints() -> list[Endpoint]:
    return [endpoint for part in PARTS for endpoint in part.endpoints]


MODELS = sorted({endpoint.body for endpoint in endpoints() if endpoint.body}, key=lambda model: model.__name__)


@cache
def hostile_bodies(model: type[RequestModel]) -> list[tuple[str, bytes]]:
    """Return hostile bodies of an eighth of the maximum size."""
    return list(bodies(BODY_MAX_BYTES // 8, model.model_fields))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_no_body_costs_more_than_a_bounded_amount_per_byte(model: type[RequestModel]) -> None:
    for name, body in hostile_bodies(model):
        expect_bounded(name, len(body), lambda body=body: parse_json(model, body))  # type: ignore[misc]


def test_no_body_of_the_maximum_size_costs_more() -> None:
    [create] = [endpoint for endpoint in endpoints() if endpoint.name == "create_transaction"]
    assert create.body is not None
    for name, body in bodies(BODY_MAX_BYTES, create.body.model_fields):
        expect_bounded(name, len(body), lambda body=body: parse_json(create.body, body))  # type: ignore[misc]


def error_of(model: type[RequestModel], body: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as failure:
        parse_json(model, body)
    return failure.value


def errors_of(model: type[RequestModel], body: bytes) -> list[FieldError]:
    try:
        parse_json(model, body)
    except GatewayError as exc:
        return exc.errors
    return []


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_errors_levels_and_values_of_a_body_are_limited(
    model: type[RequestModel],
) -> None:
    for _, body in hostile_bodies(model):
        assert len(errors_of(model, body)) <= ERRORS_MAX
    nested = b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1)
    assert "nested too deeply" in error_of(model, nested).detail
    assert isinstance(error_of(model, nested), MalformedJson)
    for wide in (
        b"[" + b",".join([b"0"] * VALUES_MAX) + b"]",
        json.dumps({str(number): 0 for number in range(MEMBERS_MAX + 1)}).encode(),
    ):
        error = error_of(model, wide)
        assert isinstance(error, ValidationFailed)
        assert error.errors == [{"pointer": "", "code": "invalid_length", "detail": error.detail}]


def test_brackets_and_commas_in_strings_are_not_counted(merchant: Caller) -> None:
    for text in ("[" * 100, "{" * 100, ",[" * 200, '"[' * 100, '\\"[' * 100, "\\" * 200 + "[" * 100, "]}" * 100):
        response = merchant.pay(metadata={"text": text, text[:40]: ""})
        assert response.status_code == 201, response.text
        assert response.json["metadata"] == {"text": text, text[:40]: ""}


def test_the_pointer_of_a_card_number_is_correct_after_escapes(merchant: Caller) -> None:
    response = merchant.post(
        "/v1/transactions",
        b'{"amount": 1, "currency": "USD", "metadata": {"a": "\\n", "b": "4242\\u00204242 4242 4242"}}',
    )
    expect_problem(response, 422, CardNumberRejected.code)
    assert field_errors(response) == {"/metadata/b": CardNumberRejected.code}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_no_query_string_costs_more_than_a_bounded_amount_per_byte(merchant: Caller, query: bytes) -> None:
    expect_bounded("query", len(query), lambda: merchant.get(f"/v1/transactions?{query.decode()}"))


@pytest.mark.parametrize("form", QUERIES.values(), ids=QUERIES)
@pytest.mark.usefixtures("_without_limit")
def test_no_form_costs_more_than_a_bounded_amount_per_byte(anonymous: Caller, form: bytes) -> None:
    options = {"content_type": "application/x-www-form-urlencoded"}
    expect_bounded("form", len(form), lambda: anonymous.post("/oauth/token", form, **options))


def test_too_many_parameters_are_rejected_without_parsing(merchant: Caller, anonymous: Caller) -> None:
    many = "&".join(f"p{number}=1" for number in range(PARAMETERS_MAX + 1))
    response = merchant.get(f"/v1/transactions?{many}")
    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {"": "invalid_length"}
    form = anonymous.post("/oauth/token", many.encode(), content_type="application/x-www-form-urlencoded")
    assert (form.status_code, form.json["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(("name", "value"), HEADERS.values(), ids=HEADERS)
def test_no_header_costs_more_than_a_bounded_amount_per_byte(merchant: Caller, name: str, value: str) -> None:
    path = "/v1/transactions/01a203ac-0af0-72d9-8fb4-1064eca29cd1/cancel"
    expect_bounded(name, len(value), lambda: merchant.call("POST", path, headers={name: value}))


@pytest.mark.parametrize("value", ["Basic " + "A" * HEADER_BYTES, "Basic " + encoded(b"%20" * 20_000)])
@pytest.mark.usefixtures("_without_limit")
def test_no_credentials_cost_more_than_a_bounded_amount_per_byte(anonymous: Caller, value: str) -> None:
    options = {"content_type": "application/x-www-form-urlencoded", "headers": {"Authorization": value}}
    expect_bounded(
        "Basic", len(value), lambda: anonymous.post("/oauth/token", b"grant_type=client_credentials", **options)
    )


@pytest.mark.parametrize("path", ["/a" * 30_000, "/v1/transactions/" + "a" * HEADER_BYTES, "/v1/%20" * 8_000])
def test_no_path_costs_more_than_a_bounded_amount_per_byte(merchant: Caller, path: str) -> None:
    expect_bounded("path", len(path), lambda: merchant.get(path))


def test_a_token_that_is_too_long_is_rejected_like_any_other_invalid_one(app: Flask) -> None:
    expect_problem(Caller(app).get("/v1/balance", headers={"Authorization": token(WIDE, WIDE)}), 401, "invalid_token")


@pytest.mark.parametrize("unit", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("look", [contains_card_number, mask_card_numbers])
def test_no_search_for_card_numbers_costs_more_than_a_bounded_amount_per_byte(
    look: Callable[[str], object], unit: bytes
) -> None:
    text = repeated(unit, BODY_MAX_BYTES).decode()
    expect_bounded("text", BODY_MAX_BYTES, lambda: look(text))


def read_statement(content: bytes) -> None:
    with statement_files.read(io.BytesIO(content), ("a", "b"), since=None, until=None):
        pass


@pytest.mark.parametrize("unit", CSV.values(), ids=CSV)
@pytest.mark.parametrize("before", [CSV_HEADER, b"", CSV_HEADER + b"a\n"], ids=["", "without header", "after an error"])
def test_no_statement_costs_more_than_a_bounded_amount_per_byte_or_fixed_memory(before: bytes, unit: bytes) -> None:
    content = repeated(unit, CSV_BYTES, before=before)
    peak = expect_bounded("statement", len(content), lambda: read_statement(content))
    assert peak < 3 * statement_files.MEMORY_MAX_BYTES


@pytest.mark.parametrize("unit", [b'"a"b\n', b"a,", b'"\n",'], ids=["broken lines", "one line", "cells over lines"])
def test_an_invalid_statement_of_the_maximum_size_needs_little_memory(unit: bytes) -> None:
    content = repeated(unit, STATEMENT_MAX_BYTES, before=CSV_HEADER)
    assert memory_bytes(lambda: read_statement(content)) < 3 * statement_files.MEMORY_MAX_BYTES


def test_a_statement_is_read_up_to_its_first_line_that_is_too_long(operator: Caller) -> None:
    longest = b"x" * (LINE_MAX_LENGTH - 1) + b"\n"
    response = operator.post(
        "/v1/statements?provider=simulated", CSV_HEADER + longest + b"x" + longest + b"a\n", content_type="text/csv"
    )
    expect_problem(response, 422, "invalid_statement")
    assert field_errors(response) == {"/2": "invalid_row", "/3": "invalid_row"}
