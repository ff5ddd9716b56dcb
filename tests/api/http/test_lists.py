"""Paging and filters of lists, tested with transactions."""

import base64
from urllib.parse import urlencode
from uuid import UUID

import pytest

from gateway.api.http.schemas import page_of
from gateway.api.resources.transactions import Transaction
from tests.api.conftest import Caller, expect_problem, field_errors
from tests.helpers.factories import execute


def ids_of(caller: Caller, path: str = "/v1/transactions", **parameters: object) -> list[str]:
    """Return the ids of all pages, in order."""
    found: list[str] = []
    cursor: dict[str, object] = {}
    while True:
        page = caller.get(f"{path}?{urlencode(parameters | cursor)}")
        assert page.status_code == 200, page.text
        found += [item["id"] for item in page.json["data"]]
        if page.json["next_cursor"] is None:
            return found
        cursor = {"cursor": page.json["next_cursor"]}


def test_an_empty_list_is_an_empty_page(merchant: Caller) -> None:
    assert merchant.get("/v1/transactions").json == {"data": [], "next_cursor": None}


def test_a_list_contains_the_objects_as_they_are_retrieved(merchant: Caller) -> None:
    made = merchant.pay(metadata={"a": "b"}).json

    response = merchant.get("/v1/transactions")

    page_of(Transaction).model_validate_json(response.data)
    assert response.json["data"] == [made]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
def test_the_pages_contain_every_object_once_newest_first(merchant: Caller, limit: int) -> None:
    made = [merchant.pay().json["id"] for _ in range(6)]

    assert ids_of(merchant, limit=limit) == made[::-1]


def test_a_page_has_20_objects_by_default(merchant: Caller) -> None:
    for _ in range(21):
        merchant.pay()

    page = merchant.get("/v1/transactions").json

    assert len(page["data"]) == 20
    assert page["next_cursor"]


def test_new_objects_do_not_change_the_next_page(merchant: Caller) -> None:
    made = [merchant.pay().json["id"] for _ in range(4)]
    first = merchant.get("/v1/transactions?limit=2").json
    merchant.pay()

    second = merchant.get(f"/v1/transactions?limit=2&cursor={first['next_cursor']}").json

    assert [item["id"] for item in first["data"] + second["data"]] == made[::-1]


def test_each_filter_finds_the_matching_objects(merchant: Caller) -> None:
    small = merchant.pay(amount=100, currency="JPY", reference="a", customer_id="c1").json
    large = merchant.pay(amount=900, currency="USD", reference="b&=", customer_id="c2").json
    execute("UPDATE transactions SET status = 'canceled' WHERE id = CAST(:id AS uuid)", id=large["id"])

    for parameters, found in (
        ({"status": "pending"}, [small]),
        ({"status": "canceled"}, [large]),
        ({"currency": "jpy"}, [small]),
        ({"currency": "USD"}, [large]),
        ({"reference": "a"}, [small]),
        ({"reference": "b&="}, [large]),
        ({"reference": ""}, []),
        ({"customer_id": "c2"}, [large]),
        ({"amount_min": 101}, [large]),
        ({"amount_min": 100}, [large, small]),
        ({"amount_max": 100}, [small]),
        ({"amount_max": 0}, []),
        ({"created_from": large["created_at"]}, [large]),
        ({"created_to": large["created_at"]}, [small]),
        ({"created_from": "2000-01-01T00:00:00+02:00"}, [large, small]),
        ({"created_from": "2999-01-01T00:00:00Z"}, []),
        ({"status": "pending", "currency": "USD"}, []),
        ({"limit": 1, "amount_min": 1}, [large, small]),
    ):
        assert ids_of(merchant, **parameters) == [item["id"] for item in found], parameters


def test_an_unencoded_plus_in_a_time_is_accepted(merchant: Caller) -> None:
    made = merchant.pay().json["id"]

    response = merchant.get("/v1/transactions?created_from=2000-01-01T00:00:00+02:00")

    assert [item["id"] for item in response.json["data"]] == [made]


@pytest.mark.parametrize(
    ("query", "pointer", "code"),
    [
        ("limit=1.0", "/limit", "invalid_type"),
        ("limit=1_0", "/limit", "invalid_type"),
        ("limit=%201", "/limit", "invalid_type"),
        ("limit=", "/limit", "invalid_type"),
        ("limit=%D9%A1", "/limit", "invalid_type"),
        ("limit=" + "9" * 5000, "/limit", "invalid_type"),
        ("limit=1&limit=2", "/limit", "duplicate"),
        ("status=paid", "/status", "invalid_choice"),
        ("status=PENDING", "/status", "invalid_choice"),
        ("currency=XXX", "/currency", "unsupported_currency"),
        ("currency=", "/currency", "invalid_format"),
        ("created_from=yesterday", "/created_from", "invalid_time"),
        ("created_from=2026-01-01", "/created_from", "invalid_time"),
        ("created_from=2026-01-01T00:00:00", "/created_from", "invalid_time"),
        ("created_from=1767225600", "/created_from", "invalid_time"),
        ("created_from=2026-02-30T00:00:00Z", "/created_from", "invalid_time"),
        ("created_from=2026-01-01T25:00:00Z", "/created_from", "invalid_time"),
        ("created_from=0001-01-01T00:00:00%2B14:00", "/created_from", "invalid_time"),
        ("created_to=2026-01-01T00:00:00%2B99:00", "/created_to", "invalid_time"),
        ("amount_min=" + "9" * 19, "/amount_min", "invalid_type"),
        ("amount_max=1e3", "/amount_max", "invalid_type"),
        ("reference=" + "r" * 256, "/reference", "invalid_length"),
        ("reference=%00", "/reference", "invalid_characters"),
    ],
)
def test_an_invalid_parameter_is_named(merchant: Caller, query: str, pointer: str, code: str) -> None:
    response = merchant.get(f"/v1/transactions?{query}")

    expect_problem(response, 422, "validation_failed")
    assert field_errors(response) == {pointer: code}


def tampered(cursor: str) -> list[str]:
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    settlement = base64.urlsafe_b64encode(raw.replace(b"transaction", b"settlement")).rstrip(b"=").decode()
    return ["ä", cursor + "=", cursor[:-1], cursor + "A", cursor[1:], settlement, "%00"]


def test_a_modified_cursor_is_rejected(merchant: Caller) -> None:
    merchant.pay()
    merchant.pay()
    cursor = merchant.get("/v1/transactions?limit=1").json["next_cursor"]

    for bad in tampered(cursor):
        response = merchant.get(f"/v1/transactions?{urlencode({'cursor': bad})}")
        expect_problem(response, 400, "invalid_cursor")


def test_a_cursor_of_another_merchant_discloses_nothing(merchant: Caller, other_merchant: Caller) -> None:
    made = merchant.pay().json["id"]
    for _ in range(2):
        other_merchant.pay()
    cursor = other_merchant.get("/v1/transactions?limit=1").json["next_cursor"]

    page = merchant.get(f"/v1/transactions?cursor={cursor}").json

    assert {item["id"] for item in page["data"]} <= {made}


def test_a_time_filter_compares_the_time_shown_rather_than_that_of_the_id(
    merchant: Caller,
) -> None:
    noon = "019c13ec-9e00"  # the first digits of an id of 2026-01-31T12:00:00.000Z
    shown = ["2026-01-31T11:59:59.200000Z", "2026-01-31T12:00:00.000500Z", "2026-01-31T12:00:00.900000Z"]
    for at in shown:
        made = merchant.pay(reference=at).json["id"]
        move = "UPDATE transactions SET id = CAST(:new AS uuid), created_at = CAST(:at AS timestamptz) WHERE id = :id"
        execute(move, id=UUID(made), new=noon + made[13:], at=at)

    def found(**parameters: object) -> set[str]:
        page = merchant.get(f"/v1/transactions?{urlencode(parameters)}").json
        return {item["created_at"] for item in page["data"]}

    assert found() == set(shown)
    assert found(created_from=shown[1]) == set(shown[1:])
    assert found(created_to=shown[1]) == {shown[0]}
    assert found(created_from=shown[0], created_to=shown[2]) == set(shown[:2])
    assert found(created_from="2026-01-31T12:00:00.000501Z", created_to=shown[2]) == set()
